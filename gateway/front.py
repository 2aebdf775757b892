"""Takes connections: serves plain requests on relayed routes, leaves the rest to uvicorn. Asyncio.

uvicorn's protocol costs more per request than all our own work, and ASGI more per streamed piece
than the kernel's part of it (docs/adr/0004-hot-path.md). So a connection starts here. While its
requests are plain they are served straight on the transport; the first that is not turns the
connection over to uvicorn for good, with every byte that has come, and only the limits stay ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.config import LimitSettings
from gateway.direct import STATUS_LINES, DirectSink
from gateway.errors import JSON_TYPE, Problem, error_body
from gateway.head import HEAD_END, Head, plain_head
from gateway.serve import Service
from headrace.core.clock import Clock
from headrace.core.outcome import Outcome

SWEEP_S: Final = 1.0
"""How often idle connections are looked for: limits are kept to within a second."""

MAX_AHEAD_BYTES: Final = 65_536
"""Bytes that a client may send of its next request before the reply to this one is complete."""

MAX_UNREAD_BYTES: Final = 128 << 20
"""Bytes of a body that are still taken, and dropped, after its request was refused: a client that
is cut off while it sends may never see why."""

_HEAD_TOO_LONG: Final = Problem(
    431, "invalid_request_error", "head_too_long", Outcome.REFUSED_INVALID
)


class Fronts:
    """Makes the protocol of each connection, and keeps their limits. One per server."""

    def __init__(self, service: Service, limits: LimitSettings, clock: Clock) -> None:
        self._clock = clock
        self.service = service
        self.limits = limits
        self.now_s = clock.now_s
        self.open: dict[Front, None] = {}

    def protocol(self, **uvicorn: Any) -> Front:
        """Make one connection's protocol; uvicorn calls this with what its own would get."""
        state: ServerState = uvicorn["server_state"]
        return Front(self, state, lambda: HttpToolsProtocol(**uvicorn))

    async def sweep(self) -> None:
        """Close what has been idle too long, for ever; cancelled by its supervisor."""
        while True:
            await self._clock.sleep(SWEEP_S)
            now_s = self.now_s()
            for front in list(self.open):
                front.check_idle(now_s)


class Front(asyncio.Protocol):
    """One connection of a client. ``server_state`` counts it as uvicorn counts its own."""

    __slots__ = (
        "_ahead",
        "_closing",
        "_cold",
        "_fronts",
        "_make_cold",
        "_sink",
        "_state",
        "_task",
        "_transport",
        "_unasked_bytes",
        "_used",
        "_waiting_s",
    )

    def __init__(
        self, fronts: Fronts, state: ServerState, make_cold: Callable[[], HttpToolsProtocol]
    ) -> None:
        self._fronts = fronts
        self._state = state
        self._make_cold = make_cold
        self._cold: HttpToolsProtocol | None = None
        self._transport: asyncio.Transport | None = None
        self._sink: DirectSink | None = None
        self._task: asyncio.Task[None] | None = None
        self._ahead = b""
        self._used = False
        self._unasked_bytes = 0
        self._closing = False
        self._waiting_s: float | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's
        self._transport = cast("asyncio.Transport", transport)
        self._waiting_s = self._fronts.now_s()
        self._fronts.open[self] = None
        # uvicorn asks its connections to shut down, and ours is one to it
        self._state.connections.add(cast("HttpToolsProtocol", self))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fronts.open.pop(self, None)
        self._state.connections.discard(cast("HttpToolsProtocol", self))
        if self._cold is not None:
            self._cold.connection_lost(exc)
        elif self._sink is not None:
            self._sink.lost()

    @override
    def pause_writing(self) -> None:
        if self._cold is not None:
            self._cold.pause_writing()
        elif self._sink is not None:
            self._sink.blocked = True

    @override
    def resume_writing(self) -> None:
        if self._cold is not None:
            self._cold.resume_writing()
        elif self._sink is not None:
            self._sink.blocked = False
            self._sink.on_ready()

    @override
    def data_received(self, data: bytes) -> None:
        if self._cold is not None:
            self._feed_cold(data)
            return
        sink = self._sink
        if sink is None:
            self._begin(self._ahead + data if self._ahead else data)
            return
        rest = sink.feed(data) if sink.missing_bytes else data
        if rest:
            self._keep_ahead(rest)
        if self._task is None and not sink.missing_bytes:
            self._next()  # the reply was complete before the body, and now that is too

    def shutdown(self) -> None:
        """Close as soon as the request in progress is over; uvicorn calls this when it stops."""
        self._closing = True
        if self._cold is not None:
            self._cold.shutdown()
        elif self._task is None and self._transport is not None:
            self._transport.close()

    def check_idle(self, now_s: float) -> None:
        """Close the connection if it has been without a request for longer than its limit."""
        if self._waiting_s is None or self._transport is None:
            return
        begun = bool(self._ahead) or not self._used or self._sink is not None
        limits = self._fronts.limits
        if now_s - self._waiting_s > (limits.head_s if begun else limits.keepalive_s):
            self._transport.close()

    def _begin(self, data: bytes) -> None:
        """Start on the next request, if ``data`` holds the whole of its head."""
        end = data.find(HEAD_END)
        limit = self._fronts.limits.head_bytes
        if end < 0 or end > limit:
            if len(data) > limit:
                self._refuse_head()
                return
            if not self._ahead:
                self._waiting_s = self._fronts.now_s()
            self._ahead = data
            return
        self._ahead = b""
        head = plain_head(data, end)
        if head is None or len(self._state.connections) > self._fronts.limits.connections:
            self._turn_cold(data)
        else:
            self._serve(head, data[end + len(HEAD_END) :])

    def _serve(self, head: Head, body: bytes) -> None:
        assert self._transport is not None
        date = b"".join(b"%b: %b\r\n" % pair for pair in self._state.default_headers)
        sink = self._sink = DirectSink(self._transport, head.length_bytes, date)
        self._waiting_s = None
        self._used = True
        rest = sink.feed(body) if body or not head.length_bytes else b""
        self._state.total_requests += 1
        self._task = asyncio.get_running_loop().create_task(self._run(head, sink), name="request")
        self._state.tasks.add(self._task)
        if rest:
            self._keep_ahead(rest)

    async def _run(self, head: Head, sink: DirectSink) -> None:
        try:
            await self._fronts.service.serve(head.kind, head.headers, sink)
        finally:
            self._over(sink)

    def _over(self, sink: DirectSink) -> None:
        """Go on to the next request, or close if the reply did not end as it should."""
        task, self._task = self._task, None
        if task is not None:
            self._state.tasks.discard(task)
        if self._transport is None:
            return
        if not sink.ended or sink.blocked:
            self._transport.abort()
        elif self._closing:
            self._transport.close()
        else:
            self._waiting_s = self._fronts.now_s()
            if not sink.missing_bytes:
                self._next()

    def _next(self) -> None:
        self._sink = None
        if self._ahead:
            data, self._ahead = self._ahead, b""
            assert self._transport is not None
            self._transport.resume_reading()
            self._begin(data)

    def _keep_ahead(self, data: bytes) -> None:
        self._ahead += data
        if len(self._ahead) > MAX_AHEAD_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def _turn_cold(self, data: bytes) -> None:
        """Leave this connection to uvicorn from here on."""
        assert self._transport is not None
        self._cold = self._make_cold()
        self._cold.connection_made(self._transport)
        self._state.connections.discard(self._cold)  # it is counted already, as ours
        self._feed_cold(data)
        if self._closing:
            self._cold.shutdown()

    def _feed_cold(self, data: bytes) -> None:
        """Pass bytes on, unless they make up an endless head, or a body refused without end."""
        cold = self._cold
        assert cold is not None
        before = cold.cycle
        cold.data_received(data)
        if self._transport is None:
            return
        if cold.cycle is not before or not (before is None or before.response_complete):
            self._unasked_bytes = 0
            self._waiting_s = None
            return
        if not self._unasked_bytes:
            self._waiting_s = self._fronts.now_s()
        self._unasked_bytes += len(data)
        in_body = before is not None and before.more_body
        if self._unasked_bytes > (MAX_UNREAD_BYTES if in_body else self._fronts.limits.head_bytes):
            self._transport.abort()

    def _refuse_head(self) -> None:
        assert self._transport is not None
        limit = self._fronts.limits.head_bytes
        body = error_body(f"the headers are longer than {limit} bytes", _HEAD_TOO_LONG)
        self._transport.write(
            b"%bconnection: close\r\n%b: %b\r\ncontent-length: %d\r\n\r\n%b"
            % (STATUS_LINES[431], *JSON_TYPE, len(body), body)
        )
        self._transport.close()
