"""vLLM's chained block hashes, so that a router can name the blocks an engine holds. Pure."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cbor2
import numpy as np
from numpy.typing import NDArray

Algorithm = Literal["sha256", "sha256_cbor"]
ExtraKey = tuple[str, ...]
TokenIds = Sequence[int] | NDArray[np.integer]

DEFAULT_SEED: Final = "vllm-none-hash"
"""What the chain starts from unless the engine's PYTHONHASHSEED is set.

Source: vLLM 0.32.0, ``vllm/v1/core/kv_cache_utils.py``, ``init_none_hash``.
"""

DIGEST_BYTES: Final = 32
_LOW_64: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Scope:
    """What keeps equal tokens apart: blocks of different scopes never share.

    Attributes:
        lora_name: Adapter the request uses, or None for the base model.
        lora_path: The path given when the adapter was loaded; part of the hash, not of events.
        cache_salt: The client's salt, or None; enters the hash of the first block only.

    """

    lora_name: str | None = None
    lora_path: str | None = None
    cache_salt: str | None = None

    def keys(self, index: int) -> tuple[ExtraKey, ...] | None:
        """Return the extra keys hashed with block ``index``, or None when there are none.

        Source: vLLM 0.32.0, ``generate_block_hash_extra_keys``: adapter first, then salt.
        """
        keys: list[ExtraKey] = []
        if self.lora_name is not None:
            keys.append(("lora", self.lora_name, self.lora_path or ""))
        if self.cache_salt is not None and index == 0:
            keys.append(("cache_salt", self.cache_salt))
        return tuple(keys) or None


BASE: Final = Scope()


class BlockHasher:
    """Hashes full blocks the way one engine does; immutable and cheap to share.

    Args:
        block_size: Tokens per block.
        algorithm: vLLM's ``--prefix-caching-hash-algo``; ``sha256`` is its default, and depends on
            Python's pickle; ``sha256_cbor`` is reproducible anywhere.
        seed: The engine's PYTHONHASHSEED as a string, or None when it is not set.

    """

    def __init__(
        self, block_size: int, algorithm: Algorithm = "sha256", seed: str | None = None
    ) -> None:
        if block_size < 1:
            raise ValueError("block_size must be at least 1")
        self.block_size = block_size
        self.algorithm = algorithm
        self._chain = _CHAINS[algorithm]
        self.root = _DIGESTS[algorithm](DEFAULT_SEED if seed is None else seed)

    def hashes(
        self,
        token_ids: TokenIds,
        scope: Scope = BASE,
        *,
        parent: bytes | None = None,
        first: int = 0,
    ) -> list[bytes]:
        """Return the digests of the full blocks of ``token_ids``, first block first.

        Args:
            token_ids: Tokens from the start of block ``first``; a partial last block is ignored.
            scope: Adapter and salt of the request.
            parent: Digest of block ``first - 1``; None starts a chain, then ``first`` must be 0.
            first: Index in the request of the first block hashed here.

        """
        assert (parent is None) == (first == 0)
        count = len(token_ids) // self.block_size
        if count == 0:
            return []
        ids = np.asarray(token_ids[: count * self.block_size], dtype=np.int64)
        blocks = ids.reshape(count, self.block_size)
        head, rest = scope.keys(first), scope.keys(first + 1)
        if head == rest:
            return self._chain(self.root if parent is None else parent, blocks, rest)
        chain = self._chain(self.root if parent is None else parent, blocks[:1], head)
        return chain if count == 1 else chain + self._chain(chain[0], blocks[1:], rest)


def external(digest: bytes) -> int:
    """Return the 64 bits that KV events carry for a digest: its low 64 bits, big-endian.

    Source: vLLM 0.32.0, ``maybe_convert_block_hash``; on unless
    ``VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0``.
    """
    return int.from_bytes(digest, "big") & _LOW_64


def _cbor_digest(value: object) -> bytes:
    return hashlib.sha256(cbor2.dumps(value, canonical=True)).digest()


def _pickle_digest(value: object) -> bytes:
    return hashlib.sha256(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)).digest()


def _pickle_chain(
    parent: bytes, blocks: NDArray[np.int64], extra: tuple[ExtraKey, ...] | None
) -> list[bytes]:
    digests: list[bytes] = []
    for block in blocks.tolist():
        parent = _pickle_digest((parent, tuple(block), extra))
        digests.append(parent)
    return digests


def _cbor_chain(
    parent: bytes, blocks: NDArray[np.int64], extra: tuple[ExtraKey, ...] | None
) -> list[bytes]:
    """Hash canonical CBOR of ``(parent, tokens, extra)`` without building it through cbor2.

    A triple is 0x83, a 32-byte string 0x58 0x20, then the array of tokens and the extra keys. All
    tokens are encoded at once (``_cbor_ints``), which makes a block of 16 cost about 1 us; for the
    single blocks that fill while decoding, cbor2 is faster.
    """
    if len(blocks) == 1:
        return [_cbor_digest((parent, tuple(blocks[0].tolist()), extra))]
    head = b"\x83\x58\x20"
    length = cbor2.dumps([0] * blocks.shape[1])[: -blocks.shape[1]]
    tail = cbor2.dumps(extra, canonical=True)
    body, ends = _cbor_ints(blocks)
    sha256 = hashlib.sha256
    digests: list[bytes] = []
    start = 0
    for end in ends:
        parent = sha256(b"".join((head, parent, length, body[start:end], tail))).digest()
        digests.append(parent)
        start = end
    return digests


def _cbor_ints(blocks: NDArray[np.int64]) -> tuple[bytes, list[int]]:
    """Return the CBOR of every token in order, and where each block's bytes end.

    Source: RFC 8949 section 3: major type 0 in its shortest form, 1, 2, 3, 5 or 9 bytes.
    """
    flat = blocks.reshape(-1)
    low, high = int(flat.min()), int(flat.max())
    if low < 0:
        raise ValueError("token ids must not be negative")
    if low >= 1 << 16 and high < 1 << 32:  # all in the 5-byte form, as tokens of text here are
        wide = np.empty((len(flat), 5), dtype=np.uint8)
        wide[:, 0] = 0x1A
        wide[:, 1:] = flat.astype(">u4").view(np.uint8).reshape(-1, 4)
        step = 5 * blocks.shape[1]
        return wide.tobytes(), list(range(step, 5 * len(flat) + 1, step))
    limits = np.array([24, 1 << 8, 1 << 16, 1 << 32], dtype=np.int64)
    form = np.searchsorted(limits, flat, side="right")
    sizes = np.array([1, 2, 3, 5, 9], dtype=np.int64)[form]
    ends = np.cumsum(sizes)
    out = np.empty(int(ends[-1]), dtype=np.uint8)
    for kind, size in enumerate((1, 2, 3, 5, 9)):
        chosen = np.flatnonzero(form == kind)
        if not len(chosen):
            continue
        values, starts = flat[chosen], ends[chosen] - size
        if kind == 0:
            out[starts] = values
            continue
        out[starts] = 0x17 + kind
        for byte in range(1, size):
            out[starts + byte] = (values >> (8 * (size - 1 - byte))) & 0xFF
    block_ends = ends[blocks.shape[1] - 1 :: blocks.shape[1]]
    return out.tobytes(), block_ends.tolist()


_Chain = Callable[[bytes, NDArray[np.int64], tuple[ExtraKey, ...] | None], list[bytes]]
_CHAINS: Final[dict[Algorithm, _Chain]] = {"sha256": _pickle_chain, "sha256_cbor": _cbor_chain}
_DIGESTS: Final[dict[Algorithm, Callable[[object], bytes]]] = {
    "sha256": _pickle_digest,
    "sha256_cbor": _cbor_digest,
}
