"""HTTP/1.1 on an asyncio protocol, as little as an engine needs. Touches sockets.

A framework would cost more per streamed chunk than the engine's own work, and this server is what
benchmarks of a gateway run against: handlers are plain calls, and a chunk is one ``write``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol, cast

import httptools

JSON: Final = b"application/json"
EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"
_MAX_PIPELINED: Final = 8
_END: Final = b"0\r\n\r\n"

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one server.

    Attributes:
        connections: Open at once; more are closed as they come.
        header_bytes: All header lines of one request.
        body_bytes: One body; longer is answered with 413.
        unread_bytes: What a client may leave unread of its streams before it is cut off.
        keep_alive_s: An idle connection is closed after this long; vLLM's default is 5.

    """

    connections: int = 4096
    header_bytes: int = 65_536
    body_bytes: int = 64 << 20
    unread_bytes: int = 4 << 20
    keep_alive_s: float = 5.0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; header names are lower case."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes


class Handler(Protocol):
    """What a server does with a request: answer through the exchange, now or later."""

    def __call__(self, request: HttpRequest, exchange: Exchange) -> None:
        """Handle one request; must not raise."""
        ...


def _status_lines() -> dict[int, bytes]:
    return {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


_STATUS_LINE: Final = _status_lines()


class Exchange:
    """The reply to one request; owned by the handler until ``ended`` or ``gone``.

    Attributes:
        gone: Whether the client went away, or was cut off, before the reply ended.
        on_gone: Called once if that happens.
        headers: Added to those of the reply.

    """

    __slots__ = ("_chunked", "_connection", "_head_only", "ended", "gone", "headers", "on_gone")

    def __init__(self, connection: Connection, *, chunked: bool, head_only: bool) -> None:
        self._connection = connection
        self._chunked = chunked
        self._head_only = head_only
        self.ended = False
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.headers: tuple[Header, ...] = ()

    def reply(self, status: int, body: bytes, content_type: bytes = JSON) -> None:
        """Answer at once with the whole of ``body``."""
        if self.gone or self.ended:
            return
        head = self._head(status, content_type, b"content-length: %d\r\n" % len(body))
        self._connection.write(head if self._head_only else head + body)
        self._finish()

    def start_stream(self, content_type: bytes = EVENT_STREAM) -> None:
        """Send the headers of a stream, as vLLM does before there is a token."""
        framing = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self._connection.streaming = True
        self._connection.write(self._head(200, content_type, framing))

    def frame(self, size: int) -> tuple[bytes, bytes]:
        """Return what must stand before and after ``size`` bytes of a stream's body."""
        return (b"%x\r\n" % size, b"\r\n") if self._chunked else (b"", b"")

    def write(self, framed: bytes) -> None:
        """Send bytes already framed; dropped when nobody is there to read them."""
        if not self.gone:
            self._connection.write(framed)

    def send(self, data: bytes) -> None:
        """Send a part of a stream's body."""
        before, after = self.frame(len(data))
        self.write(before + data + after)

    def end_stream(self) -> None:
        """End the stream properly."""
        if self.gone or self.ended:
            return
        if self._chunked:
            self._connection.write(_END)
        self._finish()

    def cut(self) -> None:
        """Break the connection off in the middle, without a word."""
        self._connection.abort()

    def lost(self) -> None:
        """Note that the client is gone; called by the connection."""
        if self.ended or self.gone:
            return
        self.gone = True
        if self.on_gone is not None:
            self.on_gone()

    def _head(self, status: int, content_type: bytes, framing: bytes) -> bytes:
        lines = [_STATUS_LINE[status], b"server: headrace-simulator\r\n", framing]
        lines.append(b"content-type: %b\r\n" % content_type)
        lines += [b"%b: %b\r\n" % header for header in self.headers]
        lines.append(b"\r\n" if self._connection.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(lines)

    def _finish(self) -> None:
        self.ended = True
        self._connection.exchange_ended()


class Connection(asyncio.Protocol):
    """One client's connection: parses requests, runs one exchange at a time."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._queue: deque[HttpRequest] = deque()
        self._idle: asyncio.TimerHandle | None = None
        self._reset()
        self.keep_alive = True
        self.streaming = False
        self.write: Callable[[bytes], None] = _drop

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._refused = 0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        self._transport.set_write_buffer_limits(high=self._limits.unread_bytes)
        if not self._server.opened(self):
            self.abort()
            return
        self._wait_idle()

    def data_received(self, data: bytes) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, b"upgrade is not supported")
        except httptools.HttpParserError:
            self._refuse(400, b"Invalid HTTP request received.")

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self.streaming:  # a reader this slow would have us hold its whole answer
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.write = _drop
        if self._idle is not None:
            self._idle.cancel()
        self._queue.clear()
        exchange, self._exchange = self._exchange, None
        self._server.closed(self)
        if exchange is not None:
            exchange.lost()

    # httptools callbacks

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        self._url += url if not self._refused else b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value))
        if not self._refused:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            self._refused = 413
        if self._refused:
            self._refuse(self._refused, b"request too large")
        elif self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._refused:
            return
        if self._body_bytes > self._limits.body_bytes:
            self._refused = 413
            self._refuse(413, b"request too large")
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError:
            self._refuse(400, b"Invalid HTTP request received.")
            return
        request = HttpRequest(
            method=self._parser.get_method().decode("ascii", "replace"),
            path=(url.path or b"/").decode("utf-8", "replace"),
            query=url.query or b"",
            headers=self._headers,
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
        )
        self.keep_alive = self._parser.should_keep_alive() and not self._server.draining
        self._reset()
        self._queue.append(request)
        if len(self._queue) > _MAX_PIPELINED:
            self.abort()
        elif self._exchange is None:
            self._next()

    # exchanges

    def _next(self) -> None:
        request = self._queue.popleft()
        chunked = self._parser.get_http_version() != "1.0"
        exchange = Exchange(self, chunked=chunked, head_only=request.method == "HEAD")
        if not chunked:
            self.keep_alive = False
        self._exchange = exchange
        self._server.handler(request, exchange)

    def exchange_ended(self) -> None:
        """Go on to the next request, or wait for one, or close."""
        self._exchange = None
        self.streaming = False
        if self._transport is None or self._transport.is_closing():
            return
        if not self.keep_alive or self._server.draining:
            self._transport.close()
        elif self._queue:
            asyncio.get_running_loop().call_soon(self._resume)
        else:
            self._wait_idle()

    def _resume(self) -> None:
        if self._queue and self._exchange is None:
            self._next()

    def close_if_idle(self) -> None:
        """Close unless an exchange is under way."""
        if self._exchange is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Break off at once; what was written and not sent is lost."""
        if self._transport is not None:
            self._transport.abort()
        exchange, self._exchange = self._exchange, None
        self.write = _drop
        if exchange is not None:
            exchange.lost()

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self._limits.header_bytes:
            self._refused = 431

    def _refuse(self, status: int, message: bytes) -> None:
        self._refused = status
        if self._exchange is None and self._transport is not None:
            head = _STATUS_LINE[status] + b"content-type: text/plain\r\nconnection: close\r\n"
            self.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(message), message))
            self._transport.close()
        else:
            self.abort()

    def _wait_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._limits.keep_alive_s, self.close_if_idle)


def _drop(_data: bytes) -> None:
    """Stand in for a transport's write once the connection is gone."""


class HttpServer:
    """Listens on one port and hands every request to ``handler``."""

    def __init__(self, handler: Handler, limits: HttpLimits) -> None:
        self.handler = handler
        self.limits = limits
        self.draining = False
        self._open: set[Connection] = set()
        self._listener: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """Start to accept; return the port, which is chosen by the system when 0 was asked for.

        Raises:
            OSError: if the address is taken.

        """
        loop = asyncio.get_running_loop()
        self.draining = False
        self._listener = await loop.create_server(
            lambda: Connection(self), host, port, backlog=1024, reuse_address=True
        )
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._open)

    def opened(self, connection: Connection) -> bool:
        """Count a new connection; False when there are too many."""
        if len(self._open) >= self.limits.connections:
            return False
        self._open.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)

    def stop_listening(self) -> None:
        """Accept no more; exchanges under way go on, idle connections close."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for connection in list(self._open):
            connection.close_if_idle()

    def abort(self) -> None:
        """Close the port and break off every connection, as a killed process would."""
        self.stop_listening()
        for connection in list(self._open):
            connection.abort()


def header_lines(pairs: Iterable[tuple[str, str]]) -> tuple[Header, ...]:
    """Return headers as bytes, without the line breaks that would let a value add a header."""
    return tuple(
        (
            name.encode("ascii", "replace"),
            value.replace("\r", " ").replace("\n", " ").encode("latin-1", "replace"),
        )
        for name, value in pairs
    )
