"""The client's side of one plain exchange, straight on its transport. Uses asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from gateway.forward import ClientGone
from headrace.core.errors import InvalidRequest

STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

LAST_CHUNK: Final = b"0\r\n\r\n"


def _nothing() -> None:
    return None


class DirectSink:
    """A ``forward.Sink`` that frames what it is given and writes it at once.

    Attributes:
        begun: Whether a head has been sent: from then on the status cannot change.
        ended: Whether the reply is complete.
        gone: Whether the client went away before that.
        blocked: Whether the client takes no more for now; set by the connection.
        missing_bytes: Bytes of the request's body still to come.
        on_gone: Called once when the client goes.
        on_ready: Called when ``blocked`` becomes false again.

    """

    __slots__ = (
        "_corked",
        "_date",
        "_framed",
        "_head",
        "_length_bytes",
        "_pieces",
        "_transport",
        "_waiter",
        "begun",
        "blocked",
        "ended",
        "gone",
        "missing_bytes",
        "on_gone",
        "on_ready",
    )

    def __init__(self, transport: asyncio.Transport, length_bytes: int, date: bytes) -> None:
        self._transport = transport
        self._length_bytes = length_bytes
        self._date = date
        self._pieces: list[bytes] | None = []
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""
        self._framed = False
        self._corked: list[bytes] | None = None
        self.missing_bytes = length_bytes
        self.begun = False
        self.ended = False
        self.gone = False
        self.blocked = False
        self.on_gone: Callable[[], None] = _nothing
        self.on_ready: Callable[[], None] = _nothing

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the request's body; return those that are beyond it."""
        size = len(data)
        rest = b""
        if size > self.missing_bytes:
            rest = data[self.missing_bytes :]
            data = data[: self.missing_bytes]
            size = self.missing_bytes
        self.missing_bytes -= size
        if self._pieces is not None:
            self._pieces.append(data)
            if self._waiter is not None and not self.missing_bytes:
                self._wake()
        return rest

    async def read(self, hold: Callable[[int], None], limit_s: float) -> bytes:
        """Read the request's body; see ``forward.Sink``. All its length is held from the start."""
        hold(self._length_bytes)
        if self.missing_bytes:
            try:
                async with asyncio.timeout(limit_s):
                    await self._wait()
            except TimeoutError:
                raise InvalidRequest(f"the body did not come within {limit_s:g} s") from None
            if self.missing_bytes:
                raise ClientGone
        pieces, self._pieces = self._pieces, None
        assert pieces is not None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def watch(self) -> None:
        """Nothing to begin: the connection tells us when it is lost."""
        if self.gone:
            self.on_gone()

    async def flushed(self, limit_s: float) -> None:
        """Wait until the client has taken nearly all that was written, or has gone."""
        if not self.blocked or self.gone:
            return
        self.on_gone = self.on_ready = self._wake
        async with asyncio.timeout(limit_s):
            await self._wait()

    def close(self) -> None:
        """The exchange is over: no callback is called any more, and no body is kept."""
        self.on_gone = self.on_ready = _nothing
        self._pieces = None

    def lost(self) -> None:
        """Take note that the connection is lost."""
        if self.ended and not self.blocked:
            return
        self.gone = True
        self._wake()
        self.on_gone()

    def start(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Make the head; it leaves with the first piece of the body, in one segment."""
        assert not self.begun
        self.begun = True
        self._framed = True
        lines = [STATUS_LINES[status], self._date]
        for name, value in headers:
            if name == b"content-length":
                self._framed = False
            lines.append(b"%b: %b\r\n" % (name, value))
        lines.append(b"transfer-encoding: chunked\r\n\r\n" if self._framed else b"\r\n")
        self._head = b"".join(lines)

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._put(b"%x\r\n%b\r\n" % (len(data), data) if self._framed else data)

    def write_chunk(self, chunk: bytes, start: int) -> None:
        """Send a piece in the frame that it came in."""
        if self._head or self.gone or not self._framed or self._corked is not None:
            self._put(chunk if self._framed else chunk[start:-2])
        else:
            self._transport.write(chunk)

    def cork(self) -> None:
        """Keep what is written until ``uncork``; a write is a system call."""
        self._corked = []

    def uncork(self) -> None:
        """Write what was kept."""
        corked, self._corked = self._corked, None
        if corked:
            self._put(b"".join(corked))

    def end(self, data: bytes = b"") -> None:
        """Send the last piece of the body."""
        if self._framed:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else LAST_CHUNK
        self._put(data)
        self.ended = True

    def _put(self, data: bytes) -> None:
        if self._corked is not None:
            self._corked.append(data)
            return
        if self._head:
            data = self._head + data
            self._head = b""
        if not self.gone:
            self._transport.write(data)

    async def _wait(self) -> None:
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
