"""One request and the reply to it. Writes through a connection; knows nothing of sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

JSON: Final = b"application/json"
EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"
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


class Line(Protocol):
    """The connection an exchange writes to.

    Attributes:
        write: Sends bytes, or drops them once the client is gone.
        keep_alive: Whether the connection outlives the reply.
        streaming: Whether a stream is under way.

    """

    write: Callable[[bytes], None]
    keep_alive: bool
    streaming: bool

    def exchange_ended(self) -> None:
        """Go on to the next request."""
        ...

    def abort(self) -> None:
        """Break off at once."""
        ...


class Handler(Protocol):
    """What a server does with a request: answer through the exchange, now or later."""

    def __call__(self, request: HttpRequest, exchange: Exchange) -> None:
        """Handle one request; must not raise."""
        ...


def _status_lines() -> dict[int, bytes]:
    return {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


STATUS_LINE: Final = _status_lines()


class Exchange:
    """The reply to one request; owned by the handler until ``ended`` or ``gone``.

    Attributes:
        gone: Whether the client went away, or was cut off, before the reply ended.
        on_gone: Called once if that happens.
        headers: Added to those of the reply.

    """

    __slots__ = ("_chunked", "_connection", "_head_only", "ended", "gone", "headers", "on_gone")

    def __init__(self, connection: Line, *, chunked: bool, head_only: bool) -> None:
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
        lines = [STATUS_LINE[status], b"server: headrace-simulator\r\n", framing]
        lines.append(b"content-type: %b\r\n" % content_type)
        lines += [b"%b: %b\r\n" % header for header in self.headers]
        lines.append(b"\r\n" if self._connection.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(lines)

    def _finish(self) -> None:
        self.ended = True
        self._connection.exchange_ended()


def header_lines(pairs: Iterable[tuple[str, str]]) -> tuple[Header, ...]:
    """Return headers as bytes, without the line breaks that would let a value add a header."""
    return tuple(
        (
            name.encode("ascii", "replace"),
            value.replace("\r", " ").replace("\n", " ").encode("latin-1", "replace"),
        )
        for name, value in pairs
    )
