"""Which chunks may go on to a client as they came; what they are made of is tested by property."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from gateway.connection import Connection, Owner
from gateway.sse import StreamMeter, Verdict

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def token(text: str, finish: str = "null") -> bytes:
    return (
        f'data: {{"id":"c","choices":[{{"index":0,"delta":{{"content":"{text}"}},'
        f'"finish_reason":{finish}}}]}}\n\n'
    ).encode()


TWO_CHOICES = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"abort"},'
    b'{"index":1,"delta":{"content":"b"},"finish_reason":null}]}\n\n'
)


def passes(meter: StreamMeter, body: bytes) -> bool:
    chunk = framed(body)
    return meter.passes_chunk(chunk, chunk.index(b"\n") + 1)


@pytest.fixture
def meter() -> StreamMeter:
    """A meter that has let a token pass, so that it knows what tokens look like."""
    meter = StreamMeter(drop_usage=True)
    assert passes(meter, token(" a"))
    assert passes(meter, token(" water"))
    return meter


def test_a_token_passes_whatever_is_said_in_it(meter: StreamMeter) -> None:
    for text in ("", "[DONE]", "data: {", "ü" * 50, "usage of", '\\"quoted\\"', "},"):
        assert passes(meter, token(text))


@pytest.mark.parametrize(
    "body",
    [
        token(".", '"stop"'),
        token(".", ' "stop"'),
        TWO_CHOICES,
        b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n',
        b"data: [DONE]\n\n",
        b'data: {"error":{"message":"x"}}\n\n',
        token("a") + b"data: [DONE]\n\n" + token("b"),
        token("a") + b'data: {"error":{"message":"x"}}\n\n' + token("b"),
        token("a") + b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n' + token("b"),
        b'data: {"id":"c","choices":[{"index":0,"delta":{}}]}\n\ndata: [DONE]\n\n' + token("b"),
        token("a")[:-2],
        token("a")[:-1],
    ],
)
def test_a_chunk_that_holds_anything_to_meter_does_not_pass(
    meter: StreamMeter, body: bytes
) -> None:
    assert not passes(meter, body)
    assert not passes(StreamMeter(drop_usage=True), body)


def test_nothing_passes_while_part_of_an_event_is_held_back(meter: StreamMeter) -> None:
    assert meter.feed(token("a")[:10]) == b""
    assert not passes(meter, token("b"))


def test_nothing_passes_after_the_verdict(meter: StreamMeter) -> None:
    meter.feed(token("", '"stop"') + b"data: [DONE]\n\n")
    assert meter.verdict is Verdict.DONE
    assert not passes(meter, token("b"))


class Handler:
    """Keeps what is given to it, and how."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None: ...

    def on_body(self, data: bytes) -> None:
        self.got.append(("parsed", data))

    def on_chunk(self, chunk: bytes, start: int) -> None:
        self.got.append(("as it came", chunk[start:-2]))

    def on_read(self, *, more: bool) -> None: ...
    def on_end(self) -> None: ...
    def on_broken(self, error: Exception) -> None: ...
    def on_stalled(self, paused_s: float) -> None: ...


class Socket:
    """Does nothing, like the pool beside it."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool:
        return False

    def made(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...
    def started(self, connection: Connection) -> None: ...
    def finished(self, connection: Connection) -> None: ...


def connection(*reads: bytes) -> list[tuple[str, bytes]]:
    handler, made = Handler(), Connection(cast("Owner", Socket()), 65_536)
    made.connection_made(cast("asyncio.BaseTransport", Socket()))
    made.send(b"POST / HTTP/1.1\r\n", b"", handler, now_s=0.0, limit_s=1.0)
    for read in reads:
        made.data_received(read)
    return handler.got


def test_chunks_that_come_one_by_one_are_not_parsed() -> None:
    got = connection(HEAD + framed(b"a"), framed(b"b"), framed(b"c"))
    assert got == [("parsed", b"a"), ("as it came", b"b"), ("as it came", b"c")]


def test_what_looks_like_a_chunk_within_a_chunk_is_body() -> None:
    inner = framed(b"inner")
    outer = framed(b"<" + inner + b">")
    cut = outer.index(inner)
    got = connection(
        HEAD + framed(b"a"), outer[:cut], inner, outer[cut + len(inner) :], framed(b"b")
    )
    assert got == [
        ("parsed", b"a"),
        ("parsed", b"<"),
        ("parsed", inner),
        ("parsed", b">"),
        ("as it came", b"b"),
    ]


def test_a_chunk_behind_part_of_a_length_is_parsed() -> None:
    # "1" and then "5\r\nhello\r\n" is the beginning of a chunk of 21 bytes, not one of 5
    body = b"hello\r\n" + b"y" * 14
    got = connection(HEAD + framed(b"a"), b"1", framed(b"hello"), b"y" * 14 + b"\r\n", framed(b"b"))
    assert b"".join(data for _, data in got) == b"a" + body + b"b"


def test_a_body_with_a_length_is_never_taken_for_chunks() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n"
    got = connection(head, framed(b"a"), framed(b"b"))
    assert got == [("parsed", framed(b"a")), ("parsed", framed(b"b"))]
