"""What was tokenised and hashed before, so that a growing prompt costs only what is new.

Holds a lock for each look-up and each entry, so that any number of threads may share it.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import Final, Generic, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from headrace.core.endpoint import BlockScheme
from kvcache.hashing import Algorithm, BlockHasher, Scope

TokenArray = NDArray[np.uint32]

V = TypeVar("V")

ENTRY_BYTES: Final = 320
"""Presumed size of an entry beside its value: key, value object and the dictionary's own."""

RUN_TOKENS: Final = 512
"""Tokens per entry, at most; what is behind the last full run is hashed each time."""

MAX_SCHEMES: Final = 64
"""Hashers kept; a fleet has as many as it has kinds of engines."""


class PrefixCache(Generic[V]):
    """Values by the chained digests of what led to them; least recently used ones go first.

    Args:
        limit_bytes: Bound on all entries together, by the callers' account of their values.

    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes that the entries take, by their account."""
        return self._bytes

    def longest(self, keys: Sequence[bytes]) -> list[V]:
        """Return the values of the first keys, up to the first that is not there."""
        found: list[V] = []
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None:
                    break
                self._entries.move_to_end(key)
                found.append(entry[0])
        return found

    def put(self, key: bytes, value: V, value_bytes: int) -> None:
        """Keep a value; one that is larger than the bound is not kept."""
        cost = value_bytes + ENTRY_BYTES
        if cost > self._limit_bytes:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self._bytes -= old[1]
            self._entries[key] = (value, cost)
            self._bytes += cost
            while self._bytes > self._limit_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self._bytes -= freed


def chain(root: bytes, parts: Sequence[bytes | memoryview]) -> list[bytes]:
    """Return a digest per part, each of all parts up to it.

    Of cryptographic strength: with a weaker one a client could make a prompt that is taken for
    another's.
    """
    keys: list[bytes] = []
    for part in parts:
        digest = sha256(root)
        digest.update(part)
        root = digest.digest()
        keys.append(root)
    return keys


class Pieces:
    """The tokens of texts, piece by piece."""

    def __init__(self, limit_bytes: int) -> None:
        self._cache: PrefixCache[TokenArray] = PrefixCache(limit_bytes)

    def tokens(
        self,
        root: bytes,
        pieces: Sequence[str],
        encode: Callable[[Sequence[str]], list[TokenArray]],
    ) -> list[TokenArray]:
        """Return the tokens of each piece; ``encode`` is asked for those never met before.

        The last piece is not kept: it ends where the text does, and the next turn's goes on.

        Args:
            root: Tells the tokenizer from others.
            pieces: A text cut where its parts can be tokenised by themselves.
            encode: Tokenises texts.

        """
        raw = [piece.encode("utf-8", "surrogatepass") for piece in pieces[:-1]]
        keys = chain(root, raw)
        known = self._cache.longest(keys)
        made = encode(pieces[len(known) :])
        for key, tokens in zip(keys[len(known) :], made, strict=False):
            self._cache.put(key, tokens, tokens.nbytes)
        return known + made


def _externals(digests: Sequence[bytes]) -> array[int]:
    """Return what ``kvcache.hashing.external`` makes of each digest, all at once."""
    low = np.frombuffer(b"".join([digest[-8:] for digest in digests]), dtype=">u8")
    return array("Q", low.astype("=u8").tobytes())


@dataclass(frozen=True, slots=True)
class _Run:
    """The blocks of a run of tokens: the last one's digest, and all as events carry them."""

    last: bytes
    hashes: array[int]


class BlockHashes:
    """Engines' block hashes of token sequences, run by run."""

    def __init__(self, limit_bytes: int) -> None:
        self._cache: PrefixCache[_Run] = PrefixCache(limit_bytes)
        self._hashers: dict[BlockScheme, BlockHasher] = {}

    def of(self, token_ids: TokenArray, scheme: BlockScheme, scope: Scope) -> array[int] | None:
        """Return the hashes of the full blocks as KV events carry them, first block first.

        None for an algorithm that cannot be reproduced.
        """
        hasher = self._hasher(scheme)
        if hasher is None:
            return None
        run_blocks = max(1, RUN_TOKENS // scheme.block_tokens)
        run_tokens = run_blocks * scheme.block_tokens
        ids = np.ascontiguousarray(token_ids, dtype=np.uint32)
        starts = range(0, len(ids) - run_tokens + 1, run_tokens)
        root = sha256(repr((scheme, scope)).encode("utf-8", "surrogatepass")).digest()
        keys = chain(root, [ids[at : at + run_tokens].data for at in starts])
        known = self._cache.longest(keys)
        hashes: array[int] = array("Q")
        for run in known:
            hashes.extend(run.hashes)
        parent = known[-1].last if known else None
        rest = ids[len(known) * run_tokens :]
        digests = hasher.hashes(rest, scope, parent=parent, first=len(hashes))
        new = _externals(digests)
        for at, key in enumerate(keys[len(known) :]):
            run_hashes = new[at * run_blocks : (at + 1) * run_blocks]
            last = digests[(at + 1) * run_blocks - 1]
            self._cache.put(key, _Run(last, run_hashes), len(run_hashes) * 8 + len(last))
        hashes.extend(new)
        return hashes

    def _hasher(self, scheme: BlockScheme) -> BlockHasher | None:
        hasher = self._hashers.get(scheme)
        if hasher is None and scheme.algorithm in get_args(Algorithm):
            hasher = BlockHasher(
                scheme.block_tokens, cast("Algorithm", scheme.algorithm), scheme.seed
            )
            if len(self._hashers) < MAX_SCHEMES:
                self._hashers[scheme] = hasher
        return hasher
