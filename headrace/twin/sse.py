"""A client for streamed completions that costs little per chunk. Touches sockets.

It shares the machine with what it measures, so it never parses a chunk: it notes when data came,
keeps the end of the body, and reads the usage there once the reply is over.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from time import monotonic  # uvloop's own clock has whole milliseconds
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from headrace.core.errors import ConfigError, EngineUnreachable, StreamBroken

TAIL_BYTES: Final = 8192
"""How much of a stream's end is kept: the usage event and ``[DONE]`` are under 1 KiB."""

WHOLE_BYTES: Final = 4 << 20
"""How much is kept of a reply that is wanted whole, such as an answer to be sent back."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply; times are monotonic seconds.

    ``first_s`` is when the first event of a stream came, None for a reply that was no stream.
    ``body`` is the end of a stream, or all of any other reply.
    """

    status: int
    sent_s: float
    first_s: float | None
    ended_s: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: one origin and what every request says of itself."""

    host: str
    port: int
    tls: bool
    path: str
    head: bytes

    @classmethod
    def parse(cls, url: str, *, api_key: str | None = None) -> Target:
        """Read a base URL such as ``http://127.0.0.1:8080`` or ``https://host/prefix``.

        Raises:
            ConfigError: if it is not an http or https URL with a host.

        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"url: expected http://host[:port], got {url!r}")
        tls = parts.scheme == "https"
        head = f"host: {parts.netloc.rpartition('@')[2]}\r\naccept: text/event-stream\r\n"
        if api_key:
            head += f"authorization: Bearer {api_key}\r\n"
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if tls else 80),
            tls=tls,
            path=parts.path.rstrip("/").removesuffix("/v1"),
            head=head.encode("latin-1"),
        )


class SseClient:
    """Sends requests to one target over kept-alive connections.

    Args:
        target: Where to.
        idle_connections: Connections kept open for reuse; more are opened as needed and closed.
        connect_s: Limit for opening a connection.
        request_s: Limit for a whole request.

    """

    def __init__(
        self,
        target: Target,
        *,
        idle_connections: int = 256,
        connect_s: float = 10.0,
        request_s: float = 600.0,
    ) -> None:
        self._target = target
        self._idle: deque[_Connection] = deque()
        self._idle_connections = idle_connections
        self._connect_s = connect_s
        self._request_s = request_s
        self._tls = ssl.create_default_context() if target.tls else None

    async def get(self, path: str) -> Reply:
        """Fetch ``path``; raises as :meth:`post` does."""
        return await self._send(b"GET %b HTTP/1.1\r\n", path, "", b"", WHOLE_BYTES)

    async def post(
        self, path: str, body: bytes, request_id: str, *, keep_bytes: int = TAIL_BYTES
    ) -> Reply:
        """Send a JSON body and wait for the end of the reply.

        At least the last ``keep_bytes`` of a stream are kept, at most twice as many. A kept-alive
        connection that the server had already closed is replaced, unseen.

        Raises:
            EngineUnreachable: if no connection could be made or it broke before the reply.
            StreamBroken: if it broke within the reply.
            TimeoutError: if the request took longer than its limit.

        """
        extra = f"content-type: application/json\r\nx-request-id: {request_id}\r\n"
        return await self._send(b"POST %b HTTP/1.1\r\n", path, extra, body, keep_bytes)

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.popleft().abort()
        await asyncio.sleep(0)

    async def _send(
        self, line: bytes, path: str, extra: str, body: bytes, keep_bytes: int
    ) -> Reply:
        sent_s = monotonic()
        target = self._target
        head = line % (target.path + path).encode() + target.head
        head += f"{extra}content-length: {len(body)}\r\n\r\n".encode("latin-1")
        async with asyncio.timeout(self._request_s):
            while True:
                connection = self._reusable()
                reused = connection is not None
                if connection is None:
                    connection = await self._connect()
                try:
                    await connection.exchange(head, body, keep_bytes)
                except EngineUnreachable:
                    if reused:
                        continue
                    raise
                finally:
                    self._put_back(connection)
                return connection.reply(sent_s)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        target = self._target
        try:
            async with asyncio.timeout(self._connect_s):
                _, protocol = await loop.create_connection(
                    _Connection, target.host, target.port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            where = f"{target.host}:{target.port}"
            raise EngineUnreachable(f"cannot connect to {where}: {error or 'timed out'}") from None
        return protocol

    def _reusable(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    def _put_back(self, connection: _Connection) -> None:
        if connection.reusable and len(self._idle) < self._idle_connections:
            self._idle.append(connection)
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection carrying one exchange at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self.reusable = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._stream = False
        self._first_s: float | None = None
        self._ended_s = 0.0
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._keep_bytes = TAIL_BYTES

    async def exchange(self, head: bytes, body: bytes, keep_bytes: int) -> None:
        """Send one request and return once its reply has ended."""
        assert self._transport is not None
        self._begin()
        self._keep_bytes = keep_bytes
        self.reusable = False
        self._done = self._loop.create_future()
        self._transport.writelines((head, body))
        await self._done

    def reply(self, sent_s: float) -> Reply:
        """Return the reply that the last exchange got."""
        body = b"".join(self._kept)
        return Reply(self._status, sent_s, self._first_s, self._ended_s, body)

    def abort(self) -> None:
        """Close at once; the server sees the client gone."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"malformed reply: {error}")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._stream and b"[DONE]" in b"".join(self._kept[-2:]):
            self._end()  # a server that ends a stream by closing
        self._fail("connection closed" if exc is None else str(exc))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note whether the reply is a stream (httptools)."""
        if name.lower() == b"content-type":
            self._stream = value.startswith(b"text/event-stream")

    def on_headers_complete(self) -> None:
        """Note the status (httptools)."""
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """Note the time of the first event and keep the end (httptools); once per chunk."""
        if self._first_s is None and self._stream and b"data:" in data:
            self._first_s = monotonic()
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._stream:
            if self._kept_bytes > 2 * self._keep_bytes:
                tail = b"".join(self._kept)[-self._keep_bytes :]
                self._kept, self._kept_bytes = [tail], len(tail)
        elif self._kept_bytes > WHOLE_BYTES:
            self._fail("the reply is no stream and too long")
            self.abort()

    def on_message_complete(self) -> None:
        """Wake the sender (httptools)."""
        self.reusable = bool(self._parser.should_keep_alive())
        self._end()

    def _end(self) -> None:
        self._ended_s = monotonic()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._done is None or self._done.done():
            return
        error = StreamBroken(reason) if self._status else EngineUnreachable(reason)
        self._done.set_exception(error)
