"""Messages between gateway replicas as bytes: MessagePack arrays, blocks as packed hashes. Pure."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import BlockHash, EndpointId, RequestId
from router.reserve import Reserve

VERSION: Final = 1
"""Of the messages; those of another are ignored, so that a rollout may change them."""

MAX_BYTES: Final = 16 << 20
"""Longest message that is read."""

_HASH_MASK: Final = (1 << 64) - 1

Name = Annotated[str, Meta(max_length=512)]
Count = Annotated[float, Meta(ge=0.0, le=1e12)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e9)]


class EngineBlocks(Struct, array_like=True, frozen=True, gc=False):
    """Leading blocks of a prompt under one engine's scheme."""

    block_tokens: Annotated[int, Meta(ge=1)]
    algorithm: Name
    seed: Name | None
    hashes: bytes


class Dispatched(Struct, array_like=True, frozen=True, tag=1):
    """A reserve; ``age_s`` is how long ago it was made when the message was sent."""

    request_id: Name
    endpoint_id: Name
    miss_tokens: Count
    resident_tokens: Count
    age_s: Seconds
    silent: bool = False
    decoding: bool = False
    block_tokens: Annotated[float, Meta(gt=0.0, le=1e9)] = 16.0
    blocks: bytes = b""
    engine: tuple[EngineBlocks, ...] = ()
    loading: bool = False


class FirstToken(Struct, array_like=True, frozen=True, tag=2, gc=False):
    """The first token of a request came."""

    request_id: Name
    age_s: Seconds


class Released(Struct, array_like=True, frozen=True, tag=3, gc=False):
    """A request has ended."""

    request_id: Name
    age_s: Seconds


Delta = Dispatched | FirstToken | Released


class Message(Struct, array_like=True, frozen=True):
    """What one replica tells all others.

    Attributes:
        version: ``VERSION``.
        sender: The replica's name.
        epoch: Of its life: larger than in any life before.
        seq: Number of the message among those with deltas, from 1; in a heartbeat or a snapshot
            the number of the last such message, as 0 before the first.
        deltas: What happened since the message before, in order; in a snapshot, all in flight.
        snapshot: Whether ``deltas`` are all it has in flight as of ``seq``.
        wants: Replicas whose snapshot the sender needs.
        wants_index: Whether it needs a fresh snapshot of prefixes in the store.
        index_at: Number of the newest snapshot of prefixes that the sender put there; 0 for none.

    """

    version: int
    sender: Name
    epoch: Annotated[int, Meta(ge=0)]
    seq: Annotated[int, Meta(ge=0)]
    deltas: tuple[Delta, ...] = ()
    snapshot: bool = False
    wants: tuple[Name, ...] = ()
    wants_index: bool = False
    index_at: Annotated[int, Meta(ge=0)] = 0


class Codec:
    """Turns messages into bytes and back. One owner."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Message)

    def encode(self, message: Message) -> bytes:
        """Return the message as it travels."""
        return self._encoder.encode(message)

    def decode(self, payload: bytes) -> Message | None:
        """Return the message, or None if it is of another version.

        Raises:
            ValueError: if it is too long or malformed.

        """
        if len(payload) > MAX_BYTES:
            raise ValueError(f"a message of {len(payload)} bytes; {MAX_BYTES} are allowed")
        if payload[1:2] != bytes((VERSION,)):
            return None
        try:
            message = self._decoder.decode(payload)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from None
        for delta in message.deltas:
            _check(delta)
        return message


def _check(delta: Delta) -> None:
    """Refuse what the types let through: NaN passes every bound, and hashes have eight bytes."""
    numbers: tuple[float, ...] = (delta.age_s,)
    if isinstance(delta, Dispatched):
        numbers = (delta.miss_tokens, delta.resident_tokens, delta.age_s, delta.block_tokens)
        hashes = [delta.blocks, *(blocks.hashes for blocks in delta.engine)]
        if any(len(packed) % 8 for packed in hashes):
            raise ValueError("hashes of other than eight bytes")
    if any(map(math.isnan, numbers)):
        raise ValueError("a number that is none")


def dispatched(reserve: Reserve, now_s: float, limit_blocks: int) -> Dispatched:
    """Return a reserve as it travels, with at most ``limit_blocks`` blocks of each kind."""
    return Dispatched(
        reserve.request_id,
        reserve.endpoint_id,
        reserve.miss_tokens,
        reserve.resident_tokens,
        max(0.0, now_s - reserve.dispatched_s),
        reserve.silent,
        reserve.decoding,
        reserve.block_tokens,
        _pack(reserve.blocks[:limit_blocks]),
        tuple(
            EngineBlocks(
                scheme.block_tokens, scheme.algorithm, scheme.seed, _pack(hashes[:limit_blocks])
            )
            for scheme, hashes in reserve.engine_blocks.items()
        ),
        reserve.loading,
    )


def reserve_of(delta: Dispatched, told_s: float) -> Reserve:
    """Return a reserve as it was told at ``told_s``, in the time of the reader."""
    engine: Mapping[BlockScheme, Sequence[int]] = {
        BlockScheme(blocks.block_tokens, blocks.algorithm, blocks.seed): _unpack(blocks.hashes)
        for blocks in delta.engine
    }
    return Reserve(
        RequestId(delta.request_id),
        EndpointId(delta.endpoint_id),
        delta.miss_tokens,
        delta.resident_tokens,
        told_s - delta.age_s,
        silent=delta.silent,
        decoding=delta.decoding,
        blocks=tuple(map(BlockHash, _unpack(delta.blocks))),
        block_tokens=delta.block_tokens,
        engine_blocks=engine,
        loading=delta.loading,
    )


def _pack(hashes: Sequence[int]) -> bytes:
    packed = array("Q", [value & _HASH_MASK for value in hashes])
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack(packed: bytes) -> array[int]:
    hashes = array("Q")
    hashes.frombytes(packed)
    if sys.byteorder == "big":
        hashes.byteswap()
    return hashes
