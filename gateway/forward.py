"""One attempt at one request: the reply of an engine, metered and handed to the client.

Everything here is called from where the event loop delivers bytes; nothing waits. Uses asyncio for
the one future that says the attempt is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from gateway.connection import Connection
from gateway.errors import PROBLEMS, error_event
from gateway.sse import StreamMeter, Verdict
from headrace.core.clock import Clock
from headrace.core.errors import EngineError, EngineRefused, HeadraceError, StreamBroken

STREAM_TYPE: Final = b"text/event-stream"

STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
"""Heads of streams: proxies in front of us are asked to pass pieces on as they come."""

BROKEN_EVENT: Final = error_event(
    "the engine failed in the middle of the reply; it is incomplete", PROBLEMS[StreamBroken]
)


class Sink(Protocol):
    """The client's side of an exchange: the front that took the request provides it."""

    on_gone: Callable[[], None]
    on_ready: Callable[[], None]

    @property
    def begun(self) -> bool:
        """Whether a head has been sent."""
        ...

    @property
    def blocked(self) -> bool:
        """Whether the client takes no more for now."""
        ...

    @property
    def gone(self) -> bool:
        """Whether the client went away before the reply was complete."""
        ...

    async def read(self, hold: Callable[[int], None], limit_s: float) -> bytes:
        """Read the request's body, asking ``hold`` for room for each piece.

        Raises:
            ClientGone: if the client left before it was complete.
            InvalidRequest: if it was not complete within ``limit_s``.

        """
        ...

    def watch(self) -> None:
        """Begin to watch for the client going away; the body has been read."""
        ...

    async def flushed(self, limit_s: float) -> None:
        """Wait until the client has taken all that was written; TimeoutError after ``limit_s``."""
        ...

    def close(self) -> None:
        """The exchange is over, whatever its state; no callback is called any more."""
        ...

    def start(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Send the head of the reply."""
        ...

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        ...

    def write_chunk(self, chunk: bytes, start: int) -> None:
        """Send a piece of a body without a length: ``chunk[start:-2]``, framed for HTTP/1.1."""
        ...

    def cork(self) -> None:
        """Keep what is written until ``uncork``: more follows at once."""
        ...

    def uncork(self) -> None:
        """Write what was kept, in one go."""
        ...

    def end(self, data: bytes = b"") -> None:
        """Send the last piece of the body."""
        ...


class ClientGone(Exception):
    """The client left, or does not read, before its reply was complete."""


class Recalled(Exception):
    """An attempt was given up, with no byte of a reply yet, to be made at another endpoint."""


class Exchange:
    """Takes one reply from a connection.

    A stream (200, ``text/event-stream``) goes to the client as it comes, from its first event on.
    Anything else is collected, and it is for the caller to judge and send.

    Attributes:
        over: Resolved when the attempt is over, however it ended; then the rest may be read.
        status: The engine's status; 0 before its head.
        content_type: The engine's, as it came.
        body: What was collected of a reply that is no stream.
        error: Why the attempt failed, or None.
        refused: Whether the engine blamed the request in the middle of a stream.
        first_s: When the first event was handed to the client, or None.
        meter: What the stream said of itself.

    """

    def __init__(
        self,
        sink: Sink,
        clock: Clock,
        *,
        meter: StreamMeter,
        headers: tuple[tuple[bytes, bytes], ...],
        on_first: Callable[[float], None],
    ) -> None:
        self._sink = sink
        self._now_s = clock.now_s
        self._headers = headers
        self._on_first = on_first
        self._connection: Connection | None = None
        self._streaming = False
        self._idle_s = 0.0
        self._stall_s = 0.0
        self._reply_bytes = 0
        self.meter = meter
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.content_type = b""
        self.body = bytearray()
        self.error: HeadraceError | ClientGone | Recalled | None = None
        self.refused = False
        self.first_s: float | None = None

    def begin(
        self, connection: Connection, *, idle_s: float, stall_s: float, reply_bytes: int
    ) -> None:
        """Take ``connection`` as the one the reply will come by, before the request is sent.

        Args:
            connection: Which.
            idle_s: Longest gap between two pieces of a stream.
            stall_s: How long the client may leave a stream unread.
            reply_bytes: Longest reply that is no stream.

        """
        self._connection = connection
        self._idle_s = idle_s
        self._stall_s = stall_s
        self._reply_bytes = reply_bytes
        self._sink.on_gone = self.abandon
        self._sink.on_ready = connection.resume

    def abandon(self) -> None:
        """The client has gone: close the connection, so that the engine stops at once."""
        self._finish(ClientGone())

    def recall(self) -> None:
        """Give the attempt up if nothing of a reply has come but the head of a stream."""
        if self.first_s is None and (self._streaming or not self.status):
            self._finish(Recalled())

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the head of the reply."""
        self.status = status
        self.content_type = headers.get(b"content-type", b"")
        self._streaming = status == 200 and self.content_type.startswith(STREAM_TYPE)

    def on_body(self, data: bytes) -> None:
        """Take a piece of the reply."""
        if self.over.done():
            return
        if not self._streaming:
            self._collect(data)
            return
        out = self.meter.feed(data)
        if self.first_s is None:
            if b"data:" not in out:
                if self.meter.verdict is not Verdict.OPEN:
                    self._close_stream(b"")
                return  # nothing yet that a retry could repeat
            self._open_stream()
        if self.meter.verdict is not Verdict.OPEN:
            self._close_stream(out)
        elif out:
            self._sink.write(out)
            self._heed()

    def on_chunk(self, chunk: bytes, start: int) -> None:
        """Take a piece of the reply in its frame."""
        if self.first_s is None or self.over.done() or not self.meter.passes_chunk(chunk, start):
            self.on_body(chunk[start:-2])
            return
        self._sink.write_chunk(chunk, start)
        self._heed()

    def on_read(self, *, more: bool) -> None:
        """Write the pieces that come with one read from the engine in one go."""
        if not self._streaming:
            return
        if more:
            self._sink.cork()
        else:
            self._sink.uncork()
            self._heed()

    def on_end(self) -> None:
        """Take note that the reply is complete."""
        if not self._streaming:
            self._finish(None)
        elif not self.over.done():
            rest = self.meter.ended()
            if rest and self.first_s is None:
                self._open_stream()
            self._close_stream(rest)

    def on_broken(self, error: EngineError) -> None:
        """Take note that the engine failed."""
        if self.over.done():
            return
        if self._sink.begun:
            self._sink.end(BROKEN_EVENT)
            error = StreamBroken(error.message)
        self._finish(error)

    def on_stalled(self, paused_s: float) -> None:
        """Give a client up that has left its stream unread for too long."""
        if paused_s > self._stall_s:
            self._finish(ClientGone())

    def _heed(self) -> None:
        """Read no more from the engine while the client does not take it."""
        if self._sink.blocked and self._connection is not None:
            self._connection.pause(self._now_s())

    def _open_stream(self) -> None:
        self.first_s = self._now_s()
        self._on_first(self.first_s)
        if self._connection is not None:
            self._connection.limit_s = self._idle_s
        self._sink.start(200, self._headers)

    def _close_stream(self, out: bytes) -> None:
        """End the client's stream as the meter's verdict says."""
        verdict = self.meter.verdict
        if verdict is Verdict.FAILED:
            if not self._sink.begun:
                self._finish(EngineRefused(self.meter.reason))
                return
            self._sink.end(out + BROKEN_EVENT)
            self._finish(StreamBroken(self.meter.reason))
            return
        self._sink.end(out)
        self.refused = verdict is Verdict.REFUSED
        if self._connection is not None:
            # what may follow [DONE] is the end of the framing; then the pool has the connection
            self._connection.resume()
            self._connection = None
        self._finish(None)

    def _collect(self, data: bytes) -> None:
        self.body += data
        if len(self.body) > self._reply_bytes:
            self._finish(EngineRefused("the engine's reply is longer than allowed"))

    def _finish(self, error: HeadraceError | ClientGone | Recalled | None) -> None:
        if self.over.done():
            return
        self.error = error
        if error is not None and self._connection is not None:
            self._connection.abort()
        self._connection = None
        self.over.set_result(None)
