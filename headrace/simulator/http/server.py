"""HTTP/1.1 on an asyncio protocol, as little as an engine needs. Touches sockets.

A framework would cost more per streamed chunk than the engine's own work, and this server is what
benchmarks of a gateway run against: handlers are plain calls, and a chunk is one ``write``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import httptools

from headrace.simulator.http.exchange import (
    STATUS_LINE,
    Exchange,
    Handler,
    HttpLimits,
    HttpRequest,
)

_MAX_PIPELINED: Final = 8


class Connection(asyncio.Protocol):
    """One client's connection: parses requests, runs one exchange at a time."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._queue: deque[tuple[HttpRequest, bool, bool]] = deque()
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
        chunked = self._parser.get_http_version() != "1.0"
        keep_alive = chunked and self._parser.should_keep_alive()
        self._reset()
        self._queue.append((request, chunked, keep_alive))
        if len(self._queue) > _MAX_PIPELINED:
            self.abort()
        elif self._exchange is None:
            self._next()

    # exchanges

    def _next(self) -> None:
        request, chunked, keep_alive = self._queue.popleft()
        exchange = Exchange(self, chunked=chunked, head_only=request.method == "HEAD")
        self.keep_alive = keep_alive and not self._server.draining
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
            head = STATUS_LINE[status] + b"content-type: text/plain\r\nconnection: close\r\n"
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
        self._dead = False
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
        """Count a new connection; False when there are too many, or it came as the server died."""
        if self._dead or len(self._open) >= self.limits.connections:
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
        self._dead = True
        self.stop_listening()
        for connection in list(self._open):
            connection.abort()
