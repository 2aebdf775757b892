"""The tokens of prompts and engines' hashes of them, found off the event loop.

Loads tokenizers from disk, in threads of its own. Who asks gets an answer within a stated time, or
None: then nobody knows the prompt's tokens and routing goes by the estimate.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import time
from array import array
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.config import TokenSettings
from gateway.conversation import cache_salt
from gateway.openai import Kind, Parsed
from gateway.prefixes import BlockHashes, Pieces
from gateway.readers import Reader, SimulatedReader, TokenizerReader, UnusableTokenizerError
from headrace.core.endpoint import BlockScheme
from headrace.core.ids import ModelName
from headrace.service.log import get_logger
from headrace.service.telemetry import Telemetry
from kvcache.hashing import Scope

_log = get_logger("tokens")

HASHES_SHARE: Final = 0.25
"""Of the cache's bytes, what block hashes may take: 8 bytes a block beside 4 bytes a token."""

WRONG_IN_A_ROW: Final = 3
"""Counts unlike the engine's after which a model's tokenizer is not trusted any more."""

MAX_READERS: Final = 64
"""Tokenizers loaded at once: a large vocabulary takes tens of MiB."""

_KINDS: Final = frozenset({Kind.CHAT, Kind.COMPLETION})

AWKWARD_TEXT: Final = (
    "Hello  world,\n\n\tit's 12345.67 -- caf\u00e9 na\u00efve \u4e2d\u6587 \U0001f600 "
    "  def f(x):\r\n    return x_1+2 <a>[INST] </s> "
)
"""What tokenizers differ on: runs of spaces, line ends, digits, contractions, scripts, emoji."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where the tokens of a name that clients use come from.

    Attributes:
        model: The base model's name.
        root: Its files, as its engines name them (``root`` in ``/v1/models``): a folder or a hub
            id; None where they do not say.
        simulated: Whether its engines are simulated ones.
        lora_name: The adapter that the name stands for, or None for the base model.
        lora_path: Where the engines loaded it from (its ``root``); their hashes depend on it.

    """

    model: ModelName
    root: str | None = None
    simulated: bool = False
    lora_name: str | None = None
    lora_path: str | None = None


@dataclass(frozen=True, slots=True)
class Tokenised:
    """What engines make of a prompt.

    Attributes:
        token_ids: Of the first prompt.
        tokens: Length in tokens, of all prompts of a batch.
        blocks: Per scheme, the hashes of the first prompt's full blocks as KV events carry them,
            first block first. Schemes that cannot be reproduced are left out.

    """

    token_ids: NDArray[np.uint32]
    tokens: int
    blocks: Mapping[BlockScheme, array[int]]


class PromptTokens:
    """Tokenises what is asked of a gateway. One per process, used from its event loop.

    Args:
        settings: Bounds.
        telemetry: Where to count.
        strftime: The local time in a given format; some chat templates name the day.

    """

    def __init__(
        self,
        settings: TokenSettings,
        telemetry: Telemetry,
        strftime: Callable[[str], str] = time.strftime,
    ) -> None:
        self._settings = settings
        self._strftime = strftime
        hashes_bytes = int(settings.cache_bytes * HASHES_SHARE)
        self._pieces = Pieces(settings.cache_bytes - hashes_bytes)
        self._hashes = BlockHashes(hashes_bytes)
        self._readers: dict[str, Reader | None] = {}
        self._loading = Lock()
        self._wrong: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="tokens")
        self._pending = 0
        self._results = telemetry.counter("headrace_tokenised_total")
        self._seconds = telemetry.histogram("headrace_tokenise_seconds").labels()

    async def of(
        self, parsed: Parsed, source: ModelSource | None, schemes: Collection[BlockScheme]
    ) -> Tokenised | None:
        """Return the tokens of a request's prompt, or None where they are not known in time.

        What takes too long goes on in its thread, so that the next turn finds it done.

        Args:
            parsed: The request.
            source: Where its model's tokens come from; None where nobody knows.
            schemes: How the engines that may get it name their blocks. Without any the tokens
                would be of no use, and are not looked for.

        """
        key = self._key(source)
        if not schemes or source is None or key is None or parsed.kind not in _KINDS:
            return None
        if self._readers.get(key, self) is None or len(parsed.forward) > self._settings.body_bytes:
            self._results.labels("unknown").inc()
            return None
        if key in self._readers and len(parsed.forward) <= self._settings.inline_bytes:
            return self._told(self._tokenise(key, parsed, source, tuple(schemes)))
        if self._pending >= self._settings.waiting:
            self._results.labels("full").inc()
            return None
        self._pending += 1
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._pool, self._tokenise, key, parsed, source, tuple(schemes))
        work.add_done_callback(self._finished)
        started_s = loop.time()
        done, _ = await asyncio.wait({work}, timeout=self._settings.limit_ms / 1_000.0)
        self._seconds.observe(loop.time() - started_s)
        if not done:
            self._results.labels("late").inc()
            return None
        return None if work.exception() else self._told(work.result())

    async def prepare(self, source: ModelSource) -> bool:
        """Load a model's tokenizer; return whether there is one to use.

        The library does not let other threads run while it reads a vocabulary: with 128,000 entries
        the event loop stands still for a quarter to half a second. So load what is known before
        serving; a model that comes later costs that once, here or with its first request.
        """
        key = self._key(source)
        if key is None:
            return False
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._reader, key) is not None

    def reported(self, source: ModelSource, tokenised: Tokenised, prompt_tokens: int) -> None:
        """Take in how many tokens an engine counted in a prompt that was tokenised here.

        An engine may have been started with another template, or another tokenizer, than its
        files say. One whose counts keep being others is not guessed at any more.
        """
        key = self._key(source)
        if key is None:
            return
        if tokenised.tokens == prompt_tokens:
            self._wrong.pop(key, None)
            return
        wrong = self._wrong[key] = self._wrong.get(key, 0) + 1
        if wrong >= WRONG_IN_A_ROW and self._readers.get(key) is not None:
            self._distrust(key, f"counted {tokenised.tokens} tokens, its engine {prompt_tokens}")

    async def verify(
        self, source: ModelSource, tokenize: Callable[[bytes], Awaitable[list[int]]]
    ) -> bool:
        """Compare with an engine's own tokens; a tokenizer that gives others is not used.

        Args:
            source: The model to look at.
            tokenize: Sends a body to ``/tokenize`` of an engine of that model. What it raises is
                passed on.

        """
        key = self._key(source)
        if key is None:
            return False
        loop = asyncio.get_running_loop()
        for kind, body in _probes(source):
            mine = await loop.run_in_executor(self._pool, self._first, key, source, kind, body)
            if self._readers.get(key) is None:
                return False
            if mine is not None and mine != await tokenize(body):
                self._distrust(key, f"its engine's tokens of a {kind} are others")
                return False
        return True

    def close(self) -> None:
        """Take no more work; what is being tokenised is finished in the background."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _key(self, source: ModelSource | None) -> str | None:
        """Return what names the tokenizer of a model, or None where there can be none."""
        if source is None or not self._settings.enabled:
            return None
        if source.simulated:
            return "simulated:"
        folder = self._settings.folders.get(source.model) or source.root
        return None if folder is None else f"files:{folder}"

    def _tokenise(
        self, key: str, parsed: Parsed, source: ModelSource, schemes: tuple[BlockScheme, ...]
    ) -> Tokenised | None:
        reader = self._reader(key)
        prompts = None if reader is None else reader.prompts(parsed.kind, parsed.forward)
        if not prompts:
            return None
        first = prompts[0]
        scope = Scope(source.lora_name, source.lora_path, cache_salt(parsed.forward))
        found = {scheme: self._hashes.of(first, scheme, scope) for scheme in schemes}
        blocks = {scheme: hashes for scheme, hashes in found.items() if hashes is not None}
        return Tokenised(first, sum(map(len, prompts)), MappingProxyType(blocks))

    def _first(self, key: str, source: ModelSource, kind: Kind, body: bytes) -> list[int] | None:
        reader = self._reader(key)
        prompts = None if reader is None else reader.prompts(kind, body)
        return [int(token) for token in prompts[0]] if prompts else None

    def _reader(self, key: str) -> Reader | None:
        """Return a tokenizer's reader, loading it when it is new; None where it cannot be used."""
        if key in self._readers:
            return self._readers[key]
        with self._loading:
            if key not in self._readers and len(self._readers) < MAX_READERS:
                self._readers[key] = self._load(key)
            return self._readers.get(key)

    def _load(self, key: str) -> Reader | None:
        kind, _, root = key.partition(":")
        if kind == "simulated":
            return SimulatedReader()
        # the library would use every core there is; our threads are counted
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            module: Any = importlib.import_module("gateway.tokenizer")
        except ImportError as error:
            _log.warning("tokenizer_missing", model=root, reason=str(error), extra="tokenizers")
            return None
        started_s = time.monotonic()
        try:
            tokenizer = module.load_tokenizer(module.find_folder(root), self._strftime)
        except UnusableTokenizerError as error:
            _log.warning("tokenizer_unusable", model=root, reason=str(error))
            return None
        _log.info("tokenizer_loaded", model=root, took_s=round(time.monotonic() - started_s, 3))
        return TokenizerReader(tokenizer, self._pieces, hashlib.sha256(key.encode()).digest())

    def _distrust(self, key: str, reason: str) -> None:
        self._readers[key] = None
        _log.warning("tokenizer_distrusted", tokenizer=key, reason=reason)

    def _told(self, tokenised: Tokenised | None) -> Tokenised | None:
        self._results.labels("unsure" if tokenised is None else "exact").inc()
        return tokenised

    def _finished(self, work: asyncio.Future[Tokenised | None]) -> None:
        self._pending -= 1
        error = None if work.cancelled() else work.exception()
        if error is not None:
            self._results.labels("failed").inc()
            _log.error("tokenise_failed", exc_info=error)


def _probes(source: ModelSource) -> list[tuple[Kind, bytes]]:
    """Return bodies for ``/tokenize`` that show how an engine reads texts and conversations."""
    turns = [
        ("system", "Be brief."),
        ("user", AWKWARD_TEXT),
        ("assistant", " Yes.\n"),
        ("user", "So?"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = {"model": source.model, "prompt": AWKWARD_TEXT}
    chats = [{"model": source.model, "messages": messages[start:]} for start in (0, 1)]
    bodies = [(Kind.COMPLETION, text), *((Kind.CHAT, chat) for chat in chats)]
    return [(kind, msgspec.json.encode(body)) for kind, body in bodies]
