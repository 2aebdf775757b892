from __future__ import annotations

import asyncio
from typing import cast

import pytest

from gateway.direct import DirectSink
from gateway.forward import ClientGone
from headrace.core.errors import InvalidRequest, Overloaded

DATE = b"date: today\r\n"


class Transport:
    """Keeps each write apart."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


def make(length_bytes: int = 0) -> tuple[DirectSink, list[bytes]]:
    transport = Transport()
    sink = DirectSink(cast("asyncio.Transport", transport), length_bytes, DATE)
    return sink, transport.writes


def held(_: int) -> None:
    return None


def test_a_whole_reply_leaves_in_one_write() -> None:
    sink, writes = make()
    sink.start(200, ((b"content-type", b"application/json"), (b"content-length", b"2")))
    assert not writes
    sink.end(b"{}")
    assert writes == [
        b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\n\r\n{}"
    ]
    assert sink.ended


def test_a_reply_without_a_length_is_framed_in_chunks() -> None:
    sink, writes = make()
    sink.start(200, ((b"content-type", b"text/event-stream"),))
    sink.write(b"data: a\n\n")
    sink.write(b"data: b\n\n")
    sink.end(b"data: [DONE]\n\n")
    assert writes[0].endswith(b"\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n")
    assert writes[1:] == [b"9\r\ndata: b\n\n\r\n", b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]


def test_a_reply_that_ends_with_nothing_more_still_ends_its_framing() -> None:
    sink, writes = make()
    sink.start(200, ())
    sink.write(b"x")
    sink.end()
    assert writes[-1] == b"0\r\n\r\n"


def test_a_chunk_goes_on_as_the_same_bytes_and_is_unwrapped_where_a_length_was_given() -> None:
    chunk = b"2\r\nab\r\n"
    sink, writes = make()
    sink.start(200, ())
    sink.write(b"x")
    sink.write_chunk(chunk, 3)
    assert writes[-1] is chunk
    sink, writes = make()
    sink.start(200, ((b"content-length", b"2"),))
    sink.write_chunk(chunk, 3)
    assert writes[-1].endswith(b"\r\n\r\nab")


def test_what_is_written_while_corked_leaves_in_one_write_and_in_order() -> None:
    sink, writes = make()
    sink.start(200, ())
    sink.cork()
    sink.write(b"a")
    sink.write_chunk(b"1\r\nb\r\n", 3)
    sink.end(b"c")
    assert not writes
    sink.uncork()
    assert len(writes) == 1
    assert writes[0].endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
    sink.uncork()
    assert len(writes) == 1


async def test_a_body_that_is_there_is_read_without_waiting() -> None:
    sink, _ = make(4)
    assert sink.feed(b"abcdNEXT") == b"NEXT"
    assert await sink.read(held, 0.0) == b"abcd"


async def test_a_body_is_read_as_its_pieces_come() -> None:
    sink, _ = make(6)
    sink.feed(b"ab")
    reading = asyncio.ensure_future(sink.read(held, 5.0))
    await asyncio.sleep(0)
    sink.feed(b"cd")
    await asyncio.sleep(0)
    assert not reading.done()
    assert sink.feed(b"ef") == b""
    assert await reading == b"abcdef"


async def test_room_is_asked_for_the_whole_length_before_anything_is_waited_for() -> None:
    asked: list[int] = []

    def full(more_bytes: int) -> None:
        asked.append(more_bytes)
        raise Overloaded("full")

    sink, _ = make(1_000)
    with pytest.raises(Overloaded):
        await sink.read(full, 5.0)
    assert asked == [1_000]


async def test_a_body_that_does_not_come_in_time_is_the_clients_fault() -> None:
    sink, _ = make(2)
    with pytest.raises(InvalidRequest, match="within"):
        await sink.read(held, 0.001)


async def test_a_client_that_leaves_while_its_body_is_read_is_gone() -> None:
    sink, _ = make(2)
    reading = asyncio.ensure_future(sink.read(held, 5.0))
    await asyncio.sleep(0)
    sink.lost()
    with pytest.raises(ClientGone):
        await reading


async def test_a_body_refused_is_dropped_as_it_comes() -> None:
    sink, _ = make(4)
    sink.close()
    assert sink.feed(b"ab") == b""
    assert sink.missing_bytes == 2
    assert sink.feed(b"cdNEXT") == b"NEXT"


def test_the_loss_of_the_connection_is_told_once_and_nothing_is_written_after() -> None:
    sink, writes = make()
    told: list[str] = []
    sink.on_gone = lambda: told.append("gone")
    sink.start(200, ())
    sink.write(b"a")
    sink.lost()
    sink.write(b"b")
    sink.end(b"c")
    assert told == ["gone"]
    assert sink.gone
    assert len(writes) == 1


def test_a_connection_lost_after_the_reply_is_no_loss() -> None:
    sink, _ = make()
    sink.start(200, ())
    sink.end()
    sink.lost()
    assert not sink.gone


async def test_a_reply_is_flushed_when_the_client_has_taken_it_or_left() -> None:
    for act in ("ready", "lost"):
        sink, _ = make()
        sink.start(200, ())
        sink.end(b"x")
        sink.blocked = True
        waiting = asyncio.ensure_future(sink.flushed(5.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        if act == "ready":
            sink.blocked = False
            sink.on_ready()
        else:
            sink.lost()
        await waiting
        assert sink.gone is (act == "lost")


async def test_a_client_that_takes_nothing_runs_out_of_time() -> None:
    sink, _ = make()
    sink.blocked = True
    with pytest.raises(TimeoutError):
        await sink.flushed(0.001)
