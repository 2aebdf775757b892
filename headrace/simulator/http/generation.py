"""One sequence to generate: what it will say, how long it gets, the keys of its blocks. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from headrace.core.ids import RequestId
from headrace.simulator.http.text import TOKEN_BYTES, TokenArray, encode
from headrace.simulator.requests import BlockKey, EngineRequest
from kvcache.hashing import BlockHasher, Scope


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt ready for the engine; choices of one request share it.

    ``keys`` are the digests of its full blocks, first block first.
    """

    ids: TokenArray
    scope: Scope
    keys: list[bytes]

    @staticmethod
    def of(ids: TokenArray, scope: Scope, hasher: BlockHasher) -> Prompt:
        """Hash the blocks of ``ids``."""
        return Prompt(ids, scope, hasher.hashes(ids, scope))


@dataclass(frozen=True, slots=True)
class Ending:
    """Where a generation ends.

    Attributes:
        output_tokens: At least 1.
        text_bytes: How much of the tokens' text is shown; a stop string is not.
        finish_reason: ``stop`` or ``length``.
        stop_reason: The stop string that was met, or None.

    """

    output_tokens: int
    text_bytes: int
    finish_reason: str
    stop_reason: str | None = None


def natural_length(chance: float, mean_tokens: float) -> int:
    """Return how long an answer is when nothing cuts it: exponential with that mean, >= 1."""
    return max(1, round(-mean_tokens * math.log1p(-chance)))


def fixed_ending(text: bytes, limit: int) -> Ending:
    """Return the end of a text that is all there is to say, cut at ``limit`` tokens."""
    needed = max(1, -(-len(text) // TOKEN_BYTES))
    if needed <= limit:
        return Ending(needed, len(text), "stop")
    return Ending(limit, limit * TOKEN_BYTES, "length")


def find_stop(text: bytes, stops: list[str], min_tokens: int) -> Ending | None:
    """Return the end that the earliest stop string makes of ``text``, or None.

    A stop string completed within the first ``min_tokens`` tokens is passed over, as in vLLM.
    """
    best: tuple[int, int, str] | None = None
    for stop in stops:
        wanted = stop.encode("utf-8", "replace")
        start = max(0, min_tokens * TOKEN_BYTES - len(wanted) + 1)
        at = text.find(wanted, start)
        if at >= 0 and (best is None or at + len(wanted) < best[0]):
            best = (at + len(wanted), at, stop)
    if best is None:
        return None
    end, at, stop = best
    return Ending(-(-end // TOKEN_BYTES), at, "stop", stop)


def _nothing() -> None:
    """Stand in for a sink that only wants to know the end."""


NOTHING: Final = _nothing


class Generation:
    """One sequence under way; owned by the host from submission to its end.

    Attributes:
        request: What the engine core gets.
        emit: Called for every token but the last.
        end: Called with the last token and the prompt tokens found cached.
        arrived_s: Wall seconds; ``first_s`` and ``last_s`` those of tokens, 0 before.

    """

    __slots__ = (
        "_hasher",
        "_output_keys",
        "_tail",
        "arrived_s",
        "emit",
        "end",
        "ending",
        "first_s",
        "last_s",
        "max_tokens",
        "prompt",
        "request",
        "text",
    )

    def __init__(self, prompt: Prompt, text: bytes, ending: Ending, hasher: BlockHasher) -> None:
        self.prompt = prompt
        self.text = text
        self.ending = ending
        self.emit: Callable[[], None] = NOTHING
        self.end: Callable[[int], None] = _ignore
        self.arrived_s = 0.0
        self.first_s = 0.0
        self.last_s = 0.0
        self.max_tokens = ending.output_tokens
        self._hasher = hasher
        self._output_keys: list[bytes] = []
        self._tail: TokenArray | None = None
        self.request: EngineRequest

    def describe(
        self, request_id: str, *, priority: int = 0, transferred_tokens: int = 0, share: bool = True
    ) -> None:
        """Set ``request``; ``share`` is whether its blocks enter the prefix cache."""
        self.request = EngineRequest(
            request_id=RequestId(request_id),
            prompt_tokens=len(self.prompt.ids),
            output_tokens=self.ending.output_tokens,
            block_keys=self.prompt.keys if share else (),
            output_keys=self.output_key if share else None,
            priority=priority,
            adapter=self.prompt.scope.lora_name,
            kv_transfer_tokens=transferred_tokens,
        )

    def output_key(self, index: int) -> BlockKey:
        """Return the digest of block ``index`` of prompt and output, which decode has filled."""
        keys, prompt_keys = self._output_keys, self.prompt.keys
        while len(prompt_keys) + len(keys) <= index:
            block = len(prompt_keys) + len(keys)
            size = self._hasher.block_size
            parent = keys[-1] if keys else (prompt_keys[-1] if prompt_keys else None)
            ids = self.token_ids(block * size, (block + 1) * size)
            keys += self._hasher.hashes(ids, self.prompt.scope, parent=parent, first=block)
        return keys[index - len(prompt_keys)]

    def token_ids(self, start: int, end: int) -> TokenArray:
        """Return tokens ``start`` to ``end`` of prompt and output."""
        prompt_tokens = len(self.prompt.ids)
        if end <= prompt_tokens:
            return self.prompt.ids[start:end]
        first = max(0, start - prompt_tokens) * TOKEN_BYTES
        output = encode(self.text[first : (end - prompt_tokens) * TOKEN_BYTES])
        if start >= prompt_tokens:
            return output
        return np.concatenate((self.prompt.ids[start:], output))


def _ignore(_cached_tokens: int) -> None:
    """Stand in until a sink is set."""
