from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache.events import (
    REPLAY_END,
    BlockStored,
    EventBatch,
    MalformedEvents,
    decode_batch,
    decode_seq,
    encode_batch,
    encode_seq,
    split_message,
)


def stored() -> BlockStored:
    return BlockStored([b"\x01" * 32], 7, [1, 2], 2, None, "GPU", None)


def test_hashes_may_be_bytes_or_integers() -> None:
    batch = EventBatch(1.0, [stored()], 3)
    assert decode_batch(encode_batch(batch)) == batch


def test_a_field_of_a_later_version_is_ignored() -> None:
    event = {"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU", "novel": 5}
    batch = decode_batch(msgspec.msgpack.encode([1.0, [event], 0, "more"]))
    assert len(batch.events) == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"events": []}),
        msgspec.msgpack.encode([1.0, [{"type": "Unheard"}], 0]),
        msgspec.msgpack.encode([1.0, [["Unheard"]], 0]),
        msgspec.msgpack.encode([1.0, [{"type": "BlockStored"}], 0]),
    ],
)
def test_what_is_not_a_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedEvents):
        decode_batch(payload)


@given(st.binary(max_size=64))
def test_no_bytes_do_worse_than_malformed(payload: bytes) -> None:
    try:
        decode_batch(payload)
    except MalformedEvents:
        return


@given(st.integers(-1, 2**63 - 1))
def test_sequence_frames_round_trip(seq: int) -> None:
    assert decode_seq(encode_seq(seq)) == seq


def test_the_end_of_a_replay_is_minus_one() -> None:
    assert decode_seq(REPLAY_END) == -1


def test_a_message_is_topic_sequence_and_payload() -> None:
    frames = [b"kv@w1@m", encode_seq(4), encode_batch(EventBatch(1.0, [stored()]))]
    topic, seq, batch = split_message(frames)
    assert (topic, seq, batch.events) == ("kv@w1@m", 4, [stored()])
    with pytest.raises(MalformedEvents, match="3 frames"):
        split_message(frames[1:])
    with pytest.raises(MalformedEvents, match="8 bytes"):
        split_message([b"t", b"123", frames[2]])
