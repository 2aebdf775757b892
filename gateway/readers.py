"""From a request's body to the tokens an engine makes of it, one reader per kind of model. Pure.

A reader answers None where it is not sure, never with a guess.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from gateway.conversation import Conversation, read_conversation, read_prompts
from gateway.openai import Kind
from gateway.prefixes import Pieces
from headrace.simulator.http.errors import ApiError
from headrace.simulator.http.prepare import chat_text, token_ids
from headrace.simulator.http.text import encode
from headrace.simulator.http.wire import ChatRequest, CompletionRequest, read
from headrace.simulator.http.wire import read_prompts as read_simulated

TokenArray = NDArray[np.uint32]


class UnusableTokenizerError(Exception):
    """A tokenizer that does not make, or does not surely make, an engine's tokens; says why."""


class TextTokenizer(Protocol):
    """A model's tokenizer and chat template; ``gateway.tokenizer`` has the one read from files."""

    prefix: list[int]
    suffix: list[int]

    def chat_text(self, conversation: Conversation) -> str | None:
        """Return a conversation's text, or None where there is no saying."""
        ...

    def pieces(self, text: str) -> list[str]:
        """Cut a text where tokenising the parts gives the tokens of the whole."""
        ...

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """Return the tokens of each text; UnusableTokenizerError where it cannot."""
        ...


class Reader(Protocol):
    """Reads the bodies of one model's requests. Any number of threads may use it."""

    def prompts(self, kind: Kind, body: bytes) -> list[TokenArray] | None:
        """Return the tokens of each prompt in the body, or None where there is no saying."""
        ...


class TokenizerReader(Reader):
    """Reads with a model's own tokenizer.

    Args:
        tokenizer: The tokenizer.
        pieces: What was tokenised before, of any model.
        root: Tells this tokenizer from all others that use ``pieces``.

    """

    def __init__(self, tokenizer: TextTokenizer, pieces: Pieces, root: bytes) -> None:
        self._tokenizer = tokenizer
        self._pieces = pieces
        self._root = root

    @override
    def prompts(self, kind: Kind, body: bytes) -> list[TokenArray] | None:
        try:
            return self._prompts(kind, body)
        except UnusableTokenizerError:
            return None

    def _prompts(self, kind: Kind, body: bytes) -> list[TokenArray] | None:
        if kind is Kind.CHAT:
            conversation = read_conversation(body)
            text = None if conversation is None else self._tokenizer.chat_text(conversation)
            if conversation is None or not text:
                return None
            return [self._tokens(text, special=conversation.special_tokens)]
        given = read_prompts(body) if kind is Kind.COMPLETION else None
        if given is None or not all((*given.texts, *given.ids)):
            return None
        if given.ids:
            return _listed(given.ids)
        return [self._tokens(text, special=given.special_tokens) for text in given.texts]

    def _tokens(self, text: str, *, special: bool) -> TokenArray:
        tokenizer = self._tokenizer
        parts = self._pieces.tokens(self._root, tokenizer.pieces(text), tokenizer.encode)
        if special:
            parts = [_array(tokenizer.prefix), *parts, _array(tokenizer.suffix)]
        return np.concatenate(parts)


class SimulatedReader(Reader):
    """Reads as the simulated engines do, with their own code: four bytes are a token."""

    @override
    def prompts(self, kind: Kind, body: bytes) -> list[TokenArray] | None:
        try:
            if kind is Kind.CHAT:
                chat = read(ChatRequest, body)
                opens = bool(chat.add_generation_prompt) and not chat.continue_final_message
                return [encode(chat_text(chat.messages, chat.tools, generate=opens))]
            if kind is Kind.COMPLETION:
                given = read_simulated(read(CompletionRequest, body).prompt, "prompt")
                return [token_ids(prompt) for prompt in given]
        except ApiError:
            pass
        return None


def _listed(ids: Sequence[list[int]]) -> list[TokenArray] | None:
    try:
        return [_array(each) for each in ids]
    except OverflowError:
        return None


def _array(ids: Sequence[int]) -> TokenArray:
    """Return ids as an array; OverflowError for one that does not fit, unlike numpy's wrapping."""
    return np.frombuffer(array("I", ids), dtype=np.uint32)
