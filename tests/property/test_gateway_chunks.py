"""However the kernel cuts an engine's stream, the client gets every event, in order, well framed."""

from __future__ import annotations

import asyncio
import json
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from gateway.connection import Connection, Owner, whole_chunk
from gateway.direct import DirectSink
from gateway.forward import Exchange
from gateway.sse import StreamMeter, Verdict
from headrace.core.record import Usage
from headrace.service.clock import RealClock

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


class Transport:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        raise AssertionError("a good stream was cut")


class Pool:
    def made(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...
    def started(self, connection: Connection) -> None: ...
    def finished(self, connection: Connection) -> None: ...


def event(text: str, finish: str | None = None, *, choices: int = 1, spaced: bool = False) -> bytes:
    each = [
        {"index": i, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
        for i in range(choices)
    ]
    separators = None if spaced else (",", ":")
    return b"data: " + json.dumps({"id": "c", "choices": each}, separators=separators).encode()


def framed(body: bytes, upper: bool) -> bytes:
    return (b"%X" if upper else b"%x") % len(body) + b"\r\n" + body + b"\r\n"


def unframed(reply: bytes) -> bytes:
    """Read a chunked body strictly, to its end."""
    body, rest = b"", reply.partition(b"\r\n\r\n")[2]
    while True:
        digits, _, rest = rest.partition(b"\r\n")
        size = int(digits, 16)
        assert rest[size : size + 2] == b"\r\n"
        body, rest = body + rest[:size], rest[size + 2 :]
        if not size:
            assert not rest
            return body


TEXTS = st.sampled_from(
    ["a", " water", "", "\n\n", '"usage"', 'finish_reason":"stop"', "[DONE]", 'data: {"error"', "ü"]
)
TOKENS = st.lists(
    st.tuples(TEXTS, st.integers(1, 2), st.booleans(), st.booleans()), min_size=1, max_size=12
)


@given(TOKENS, st.lists(st.integers(1, 400), max_size=30), st.booleans())
async def test_every_cut_of_a_stream_gives_the_same_events(
    tokens: list[tuple[str, int, bool, bool]], cuts: list[int], joined: bool
) -> None:
    events = [event(t, choices=n, spaced=spaced) for t, n, spaced, _ in tokens]
    events.append(event("end", "stop"))
    usage = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode()
    pieces = [e + b"\n\n" for e in [*events, usage, b"data: [DONE]"]]
    if joined:  # an engine that puts two events into one chunk
        pieces = [b"".join(pieces[i : i + 2]) for i in range(0, len(pieces), 2)]
    uppers = [upper for *_, upper in tokens]
    body = b"".join(framed(p, i < len(uppers) and uppers[i]) for i, p in enumerate(pieces))
    stream = HEAD + body + b"0\r\n\r\n"

    down = Transport()
    connection = Connection(cast("Owner", Pool()), 65_536)
    connection.connection_made(cast("asyncio.BaseTransport", Transport()))
    sink = DirectSink(cast("asyncio.Transport", down), 0, b"")
    meter = StreamMeter(drop_usage=True)
    exchange = Exchange(sink, RealClock(), meter=meter, headers=(), on_first=lambda _: None)
    exchange.begin(connection, idle_s=9.0, stall_s=9.0, reply_bytes=1_000)
    connection.send(b"POST / HTTP/1.1\r\n", b"{}", exchange, now_s=0.0, limit_s=9.0)
    at = 0
    for cut in [*cuts, len(stream)]:  # the last takes all there is left
        if at < len(stream):
            connection.data_received(stream[at : at + cut])
            at += cut

    assert exchange.over.done()
    assert exchange.error is None
    assert meter.verdict is Verdict.DONE
    assert meter.usage == Usage(7, 3)
    expected = b"".join(e + b"\n\n" for e in [*events, b"data: [DONE]"])
    assert unframed(down.written) == expected


@given(st.binary(max_size=40))
def test_only_one_whole_plain_chunk_is_taken_for_one(data: bytes) -> None:
    start = whole_chunk(data)
    if start:
        body = data[start:-2]
        assert body
        assert data == b"%x\r\n%b\r\n" % (len(body), body)


@given(st.binary(min_size=1, max_size=300))
def test_every_whole_chunk_is_recognised_and_no_part_of_it(body: bytes) -> None:
    chunk = b"%x\r\n%b\r\n" % (len(body), body)
    assert chunk[whole_chunk(chunk) : -2] == body
    assert not whole_chunk(chunk[:-1])
    assert not whole_chunk(chunk + b"0")
    assert not whole_chunk(b"0\r\n\r\n")
