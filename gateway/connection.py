"""One connection to an engine: writes requests, parses replies, keeps time. Touches a socket."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

import httptools
from typing_extensions import override

from headrace.core.errors import EngineError, EngineRefused, EngineTimeout, EngineUnreachable

JOIN_BELOW_BYTES: Final = 65_536
"""Bodies shorter than this are copied behind their head; longer ones are written beside it."""

MAX_SIZE_DIGITS: Final = 6
"""Most digits of a chunk's length that are looked for; longer chunks are parsed."""


class ReplyHandler(Protocol):
    """Takes one reply as it comes. Nothing is called after ``on_end`` or ``on_broken``."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the status and the headers, their names in lower case."""
        ...

    def on_body(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        ...

    def on_chunk(self, chunk: bytes, start: int) -> None:
        """Take the next bytes of the body, which are ``chunk[start:-2]`` in their frame."""
        ...

    def on_read(self, *, more: bool) -> None:
        """Take note that several calls may follow at once (``more``), or that they have."""
        ...

    def on_end(self) -> None:
        """Take note that the reply is complete."""
        ...

    def on_broken(self, error: EngineError) -> None:
        """Take note that there will be no more, though the reply is not complete."""
        ...

    def on_stalled(self, paused_s: float) -> None:
        """Take note that the reply has been paused for that long."""
        ...


def whole_chunk(data: bytes) -> int:
    """Return where the body starts in ``data`` if it is one chunk of a chunked body, else 0.

    Engines send a token as a chunk and the kernel hands it over as such, nearly always: this saves
    parsing it. Only the plainest frame passes (lower case, no extension, not the last chunk), so
    that it can go on to a client as it is.
    """
    at = data.find(b"\r\n", 1, MAX_SIZE_DIGITS + 2)
    if at < 0:
        return 0
    size = len(data) - at - 4
    if size <= 0 or data[:at] != b"%x" % size or not data.endswith(b"\r\n"):
        return 0
    return at + 2


class Owner(Protocol):
    """The pool that a connection reports to."""

    def made(self, connection: Connection) -> None:
        """It is open."""
        ...

    def lost(self, connection: Connection) -> None:
        """It is closed."""
        ...

    def started(self, connection: Connection) -> None:
        """It carries a request."""
        ...

    def finished(self, connection: Connection) -> None:
        """It is free for another."""
        ...


class Connection(asyncio.Protocol):
    """Carries one request at a time.

    Attributes:
        fresh: Whether it has carried nothing yet, so that it cannot have gone stale.
        since_s: When it was last put to use, or made progress, as far as the sweep has seen.
        limit_s: How long it may go without progress; set with each request and each first byte.
        progress: Pieces of body received; only compared.

    """

    def __init__(self, owner: Owner, head_bytes: int) -> None:
        self._owner = owner
        self._head_bytes = head_bytes
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._handler: ReplyHandler | None = None
        self._headers: dict[bytes, bytes] = {}
        self._head_seen = 0
        self._in_head = True
        self._in_chunk: bool | None = None
        self._at_border = False
        self._paused_s: float | None = None
        self._seen_progress = 0
        self.fresh = True
        self.progress = 0
        self.since_s = 0.0
        self.limit_s = 0.0

    @property
    def usable(self) -> bool:
        """Whether it is open and carries nothing."""
        transport = self._transport
        return self._handler is None and transport is not None and not transport.is_closing()

    @property
    def in_use(self) -> bool:
        """Whether it carries a request."""
        return self._handler is not None

    def send(
        self, head: bytes, body: bytes, handler: ReplyHandler, *, now_s: float, limit_s: float
    ) -> None:
        """Write one request; the reply goes to ``handler``.

        Args:
            head: Request line and headers without the length and the empty line.
            body: The body.
            handler: Whom to give the reply to.
            now_s: Monotonic seconds.
            limit_s: How long to wait for the first piece of the body.

        """
        assert self._handler is None
        assert self._transport is not None
        self._handler = handler
        self.fresh = False
        self._in_head = True
        self._in_chunk = None
        self._at_border = False
        self._head_seen = 0
        self._headers = {}
        self._seen_progress = self.progress
        self.since_s = now_s
        self.limit_s = limit_s
        self._owner.started(self)
        head = b"%bContent-Length: %d\r\n\r\n" % (head, len(body))
        if len(body) < JOIN_BELOW_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def pause(self, now_s: float) -> None:
        """Stop reading until ``resume``: the client does not take what there is."""
        if self._paused_s is None and self._transport is not None:
            self._paused_s = now_s
            if not self._transport.is_closing():
                self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused_s is not None and self._transport is not None:
            self._paused_s = None
            self.progress += 1
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def give_back(self) -> None:
        """Return it to its pool unused."""
        self._owner.finished(self)

    def abort(self) -> None:
        """Close at once. The engine sees its client leave and stops the request."""
        self._handler = None
        if self._transport is not None:
            self._transport.abort()

    def check_progress(self, now_s: float) -> None:
        """Fail the request if it has gone without progress for longer than its limit."""
        handler = self._handler
        if handler is None:
            return
        if self._paused_s is not None:
            handler.on_stalled(now_s - self._paused_s)
        elif self.progress != self._seen_progress:
            self._seen_progress = self.progress
            self.since_s = now_s
        elif now_s - self.since_s > self.limit_s:
            self._fail(EngineTimeout("an engine did not answer in time"))

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's
        self._transport = cast("asyncio.Transport", transport)
        self._owner.made(self)

    @override
    def data_received(self, data: bytes) -> None:
        handler = self._handler
        if handler is None:  # nobody asked; whatever it is, the connection is out of step
            self.abort()
            return
        if self._at_border:
            start = whole_chunk(data)
            if start:
                self.progress += 1
                handler.on_chunk(data, start)
                return
        handler.on_read(more=True)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(EngineRefused("an engine did not speak HTTP"))
        except httptools.HttpParserUpgrade:
            self._fail(EngineRefused("an engine changed the protocol"))
        finally:
            handler.on_read(more=False)
        # a chunk has ended, and of the next one not even a digit has come
        self._at_border = self._in_chunk is False and data.endswith(b"\r\n")
        if self._in_head:
            self._head_seen += len(data)
            if self._head_seen > self._head_bytes:
                self._fail(EngineRefused("an engine sent an endless head"))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        handler, self._handler = self._handler, None
        self._owner.lost(self)
        self._transport = None
        if handler is None:
            return
        if exc is None and self._ends_with_connection():
            handler.on_end()
        else:
            handler.on_broken(EngineUnreachable("an engine closed the connection"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Parser: one header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Parser: the head is complete."""
        status = self._parser.get_status_code()
        if status >= 200 and self._handler is not None:
            self._in_head = False
            self._handler.on_head(status, self._headers)

    def on_body(self, data: bytes) -> None:
        """Parser: a piece of body."""
        self.progress += 1
        if self._handler is not None:
            self._handler.on_body(data)

    def on_chunk_header(self) -> None:
        """Parser: a chunk begins."""
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        """Parser: a chunk is complete, its last line end included."""
        self._in_chunk = False

    def on_message_complete(self) -> None:
        """Parser: the reply is complete, unless it was one of those that only announce another."""
        if self._in_head:
            self._headers = {}
            return
        handler, self._handler = self._handler, None
        if handler is None:
            return
        self.resume()
        if self._parser.should_keep_alive():
            self._owner.finished(self)
        else:
            self.abort()
        handler.on_end()

    def _ends_with_connection(self) -> bool:
        headers = self._headers
        return (
            not self._in_head
            and b"content-length" not in headers
            and b"transfer-encoding" not in headers
        )

    def _fail(self, error: EngineError) -> None:
        handler = self._handler
        self.abort()
        if handler is not None:
            handler.on_broken(error)
