from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import BlockHash, EndpointId, RequestId
from router.replica_wire import (
    MAX_BYTES,
    VERSION,
    Codec,
    Dispatched,
    FirstToken,
    Message,
    Released,
    dispatched,
    reserve_of,
)
from router.reserve import Reserve

hashes = st.lists(st.integers(0, 2**64 - 1), max_size=5).map(tuple)


@given(
    blocks=hashes,
    engine=hashes,
    age=st.floats(0, 100),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_a_reserve_travels_whole(
    blocks: tuple[BlockHash, ...], engine: tuple[int, ...], age: float, flags: tuple[bool, bool]
) -> None:
    scheme = BlockScheme(32, "sha256_cbor", "0")
    reserve = Reserve(
        RequestId("r"), EndpointId("e"), 1.5, 2.5, 100.0, *flags, blocks, 62.5, {scheme: engine}
    )
    codec = Codec()
    delta = dispatched(reserve, 100.0 + age, 10)
    message = codec.decode(codec.encode(Message(VERSION, "a", 7, 1, (delta,))))
    assert message is not None
    (back,) = message.deltas
    assert isinstance(back, Dispatched)
    told = reserve_of(back, 500.0)
    assert told.dispatched_s == pytest.approx(500.0 - age)
    assert list(told.engine_blocks[scheme]) == list(engine)
    assert replace(told, dispatched_s=100.0, engine_blocks=reserve.engine_blocks) == reserve


def test_a_message_travels_whole() -> None:
    codec = Codec()
    deltas = (FirstToken("r", 0.5), Released("r", 0.25))
    message = Message(VERSION, "a", 2**62, 9, deltas, True, ("b", "c"), True, 3)
    assert codec.decode(codec.encode(message)) == message


def test_a_first_token_takes_few_bytes() -> None:
    message = Message(VERSION, "gateway-7d9f-x2x4k", 2**62, 1_000, (FirstToken("r" * 32, 0.01),))
    assert len(Codec().encode(message)) < 100


def test_messages_of_another_version_are_none_of_ours() -> None:
    other = msgspec.msgpack.encode([VERSION + 1, {"all": "different"}])
    assert Codec().decode(other) is None


@pytest.mark.parametrize(
    "delta",
    [
        [1, "r", "e", math.nan, 1.0, 0.0],
        [1, "r", "e", 1.0, math.inf, 0.0],
        [1, "r", "e", -1.0, 1.0, 0.0],
        [1, "r", "e", 1.0, 1.0, 0.0, False, False, 0.0],
        [1, "r", "e", 1.0, 1.0, 0.0, False, False, 16.0, b"seven b"],
        [1, "r", "e", 1.0, 1.0, 0.0, False, False, 16.0, b"", [[16, "sha256", None, b"x"]]],
        [1, "r" * 600, "e", 1.0, 1.0, 0.0],
        [2, "r", math.nan],
        [3, "r", -1.0],
        [4, "r", 0.0],
        [2],
        "r",
    ],
)
def test_a_malformed_delta_is_refused(delta: object) -> None:
    payload = msgspec.msgpack.encode([VERSION, "a", 1, 1, [delta]])
    with pytest.raises(ValueError, match=r"\w"):
        Codec().decode(payload)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(payload: bytes) -> None:
    for tried in (payload, bytes((0x95, VERSION)) + payload):
        try:
            Codec().decode(tried)
        except ValueError:
            continue


def test_a_message_that_is_too_long_is_not_looked_at() -> None:
    with pytest.raises(ValueError, match="bytes"):
        Codec().decode(b"\x95\x01" + bytes(MAX_BYTES))
