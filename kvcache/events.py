"""KV events as vLLM puts them on the wire: types, encoding, decoding. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

WireHash = int | bytes
"""A block's name: the low 64 bits of its digest, or all 32 bytes where the engine is so set."""

REPLAY_END: Final = (-1).to_bytes(8, "big", signed=True)
"""Sequence frame that ends a replay."""


class MalformedEvents(ValueError):
    """A frame is not a batch of KV events; the stream can no longer be trusted."""


class BlockStored(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Blocks that became reusable, in chain order.

    Source: vLLM 0.32.0, ``vllm/distributed/kv_events.py``; fields and defaults are its own.
    ``token_ids`` holds ``block_size`` tokens per block; ``extra_keys`` one entry per block.
    """

    block_hashes: list[WireHash]
    parent_block_hash: WireHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[tuple[Any, ...] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None


class BlockRemoved(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Blocks whose contents are gone from ``medium``. Source: as ``BlockStored``."""

    block_hashes: list[WireHash]
    medium: str | None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Every block of the engine is gone. Source: as ``BlockStored``."""


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, frozen=True, array_like=True):
    """What one scheduler step did: ``[ts, events, data_parallel_rank]``.

    ``ts`` is the engine's wall clock in Unix seconds.
    """

    ts: float
    events: list[KvEvent]
    data_parallel_rank: int | None = None


class _OldStored(msgspec.Struct, frozen=True, array_like=True, tag="BlockStored"):
    """The positional form. Source: vLLM 0.10, ``kv_events.py`` (``array_like=True``)."""

    block_hashes: list[WireHash]
    parent_block_hash: WireHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None


class _OldRemoved(msgspec.Struct, frozen=True, array_like=True, tag="BlockRemoved"):
    """The positional form. Source: as ``_OldStored``."""

    block_hashes: list[WireHash]
    medium: str | None = None


class _OldCleared(msgspec.Struct, frozen=True, array_like=True, tag="AllBlocksCleared"):
    """The positional form. Source: as ``_OldStored``."""


class _OldBatch(msgspec.Struct, frozen=True, array_like=True):
    ts: float
    events: list[_OldStored | _OldRemoved | _OldCleared]
    data_parallel_rank: int | None = None


_DECODE: Final = msgspec.msgpack.Decoder(EventBatch)
_DECODE_OLD: Final = msgspec.msgpack.Decoder(_OldBatch)
_ENCODE: Final = msgspec.msgpack.Encoder()


def encode_batch(batch: EventBatch) -> bytes:
    """Return the payload frame of ``batch``."""
    return _ENCODE.encode(batch)


def decode_batch(payload: bytes) -> EventBatch:
    """Return the batch in a payload frame, in today's form or the older positional one.

    Fields this version does not know are ignored; an event type it does not know is an error,
    because an index that skips events no longer mirrors the engine.

    Raises:
        MalformedEvents: if the payload is neither form.

    """
    try:
        return _DECODE.decode(payload)
    except msgspec.MsgspecError as error:
        try:
            old = _DECODE_OLD.decode(payload)
        except msgspec.MsgspecError:
            raise MalformedEvents(f"not a batch of KV events: {error}") from None
    return EventBatch(old.ts, [_today(event) for event in old.events], old.data_parallel_rank)


def _today(event: _OldStored | _OldRemoved | _OldCleared) -> KvEvent:
    match event:
        case _OldStored():
            return BlockStored(
                block_hashes=event.block_hashes,
                parent_block_hash=event.parent_block_hash,
                token_ids=event.token_ids,
                block_size=event.block_size,
                lora_id=event.lora_id,
                medium=event.medium,
                lora_name=event.lora_name,
            )
        case _OldRemoved():
            return BlockRemoved(block_hashes=event.block_hashes, medium=event.medium)
        case _OldCleared():
            return AllBlocksCleared()


def encode_seq(seq: int) -> bytes:
    """Return the frame for a sequence number: 8 bytes, big-endian, signed (-1 ends a replay)."""
    return seq.to_bytes(8, "big", signed=True)


def decode_seq(frame: bytes) -> int:
    """Return the sequence number in a frame.

    Raises:
        MalformedEvents: if the frame is not 8 bytes long.

    """
    if len(frame) != 8:
        raise MalformedEvents(f"a sequence frame has 8 bytes, not {len(frame)}")
    return int.from_bytes(frame, "big", signed=True)


def split_message(frames: Sequence[bytes]) -> tuple[str, int, EventBatch]:
    """Return topic, sequence number and batch of one published message.

    Raises:
        MalformedEvents: if the message is not ``[topic, seq, payload]``.

    """
    if len(frames) != 3:
        raise MalformedEvents(f"a KV event message has 3 frames, not {len(frames)}")
    topic, seq, payload = frames
    return topic.decode("utf-8", "replace"), decode_seq(seq), decode_batch(payload)
