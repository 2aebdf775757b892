"""Has one engine compute a prompt before another is sent the request. Uses asyncio only to wait.

Whatever goes wrong here is no harm to the client: no byte of a reply has been sent, and one engine
that does both can still be asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.config import UpstreamSettings
from gateway.connection import Connection
from gateway.forward import ClientGone, Sink
from gateway.handover import can_be_shared, first_body, handed_over, second_body
from gateway.openai import Kind, Parsed
from gateway.placing import Placing
from gateway.reply import judge
from gateway.retry import Circuit
from gateway.upstream import Upstream
from headrace.core.clock import Clock
from headrace.core.errors import (
    CapacityError,
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
)
from headrace.core.ids import EndpointId
from headrace.core.outcome import Outcome
from headrace.core.request import RouteRequest
from headrace.service.telemetry import Telemetry
from router.decide import Decision
from router.router import Router

TRIES: Final = 2
"""A kept connection may have been closed by the engine meanwhile; then once more, on a new one."""


class PrefillFailed(EngineRefused):
    """The engine that should compute the prompt did not; the one for the reply was not asked."""


class Disaggregation:
    """Sends prompts to the engines that only compute prompts. One owner."""

    def __init__(  # noqa: PLR0913 -- what a request meets on its way
        self,
        settings: UpstreamSettings,
        paths: Mapping[Kind, str],
        *,
        router: Router,
        placing: Placing,
        upstream: Upstream,
        circuit: Circuit,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._router = router
        self._placing = placing
        self._upstream = upstream
        self._circuit = circuit
        self._clock = clock
        splits = telemetry.counter("headrace_split_requests_total")
        self._handed_over = splits.labels("handed_over")
        self._prefill_failed = splits.labels("prefill_failed")
        self._decode_failed = splits.labels("decode_failed")

    def may_split(self, request: Parsed) -> bool:
        """Return whether two engines may share a request."""
        return self._router.disaggregates(request.model) and can_be_shared(
            request.kind, request.forward
        )

    async def prefill(
        self,
        route: RouteRequest,
        prefill_id: EndpointId,
        request: Parsed,
        head: bytes,
        sink: Sink,
    ) -> Parsed:
        """Have ``prefill_id`` compute the prompt; return the request as the other is to get it.

        Args:
            route: The request, reserved at both.
            prefill_id: The engine to ask.
            request: The client's request.
            head: The request's own part of the head sent to engines.
            sink: Tells when the client leaves; then the engine's request is aborted.

        Raises:
            PrefillFailed: if it did not, whatever the reason.
            ClientGone: if the client left meanwhile.

        """
        try:
            reply = await self._ask(prefill_id, request, head, sink)
            judged = judge(reply.status, reply.content_type, bytes(reply.body))
            if judged.outcome is not Outcome.SERVED:
                raise EngineRefused(f"an engine refused a prompt with status {reply.status}")
            params = handed_over(judged.body)
        except (EngineError, CapacityError) as error:
            self._prefill_failed.inc()
            raise PrefillFailed(error.message) from error
        self._handed_over.inc()
        self._router.prefilled(route.request_id, self._clock.now_s(), judged.usage)
        self._placing.changed()
        return msgspec.structs.replace(request, forward=second_body(request.forward, params))

    def excuses(self, decision: Decision, error: EngineError | CapacityError) -> bool:
        """Take note that an attempt failed that will be repeated by one engine alone.

        Returns whether the second engine may be that one: it was not asked, or it answered, and
        may only have been unable to fetch what the first had computed.
        """
        if decision.candidate.prefill_id is None:
            return False
        if isinstance(error, PrefillFailed):
            return True
        self._decode_failed.inc()
        return isinstance(error, EngineRefused)

    async def _ask(
        self, prefill_id: EndpointId, request: Parsed, head: bytes, sink: Sink
    ) -> FirstReply:
        view = self._router.endpoint(prefill_id)
        body = first_body(request.forward)
        head = self._upstream.head(view, self._paths[request.kind]) + head
        for tries in range(TRIES):
            try:
                connection = await self._upstream.connection(view)
            except EngineUnreachable:
                self._circuit.failed(prefill_id, self._clock.now_s())
                raise
            if sink.gone:
                connection.give_back()
                raise ClientGone
            fresh = connection.fresh
            reply = FirstReply(connection, sink, self._settings.reply_bytes)
            connection.send(
                head,
                body,
                reply,
                now_s=self._clock.now_s(),
                limit_s=self._settings.first_byte_s,
            )
            try:
                await reply.over
            finally:
                reply.abandon()  # changes nothing unless we were cancelled
            stale = not fresh and not reply.status and isinstance(reply.error, EngineUnreachable)
            if not stale or tries == TRIES - 1:
                break
        if reply.status:
            self._circuit.succeeded(prefill_id)
        if isinstance(reply.error, EngineTimeout | EngineUnreachable):
            self._circuit.failed(prefill_id, self._clock.now_s())
        if reply.error is not None:
            raise reply.error
        return reply


def check_second(status: int) -> None:
    """Hold a refusal of the second engine against the sharing: the first had no objection.

    Raises:
        EngineRefused: if ``status`` is one that blames the request.

    """
    if 400 <= status < 500 and status not in (401, 403, 429):
        raise EngineRefused("an engine refused a request whose prompt another had computed")


class FirstReply:
    """Collects the reply of an engine that computes a prompt; the client sees nothing of it.

    Attributes:
        over: Resolved when the reply is complete, or will not be.
        status: The engine's status; 0 before its head.
        content_type: The engine's, as it came.
        body: What was collected.
        error: Why it is not complete, or None.

    """

    def __init__(self, connection: Connection, sink: Sink, most_bytes: int) -> None:
        self._connection: Connection | None = connection
        self._most_bytes = most_bytes
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.content_type = b""
        self.body = bytearray()
        self.error: EngineError | ClientGone | None = None
        sink.on_gone = self.abandon

    def abandon(self) -> None:
        """The client has gone: close the connection, so that the engine stops at once."""
        self._finish(ClientGone())

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the head of the reply."""
        self.status = status
        self.content_type = headers.get(b"content-type", b"")

    def on_body(self, data: bytes) -> None:
        """Take a piece of the reply."""
        if self.over.done():
            return
        self.body += data
        if len(self.body) > self._most_bytes:
            self._finish(EngineRefused("the engine's reply is longer than allowed"))

    def on_chunk(self, chunk: bytes, start: int) -> None:
        """Take a piece of the reply in its frame."""
        self.on_body(chunk[start:-2])

    def on_read(self, *, more: bool) -> None:
        """Do nothing: there is nobody to write to."""

    def on_end(self) -> None:
        """Take note that the reply is complete."""
        self._finish(None)

    def on_broken(self, error: EngineError) -> None:
        """Take note that the engine failed."""
        self._finish(error)

    def on_stalled(self, paused_s: float) -> None:
        """Do nothing: reading is never paused."""

    def _finish(self, error: EngineError | ClientGone | None) -> None:
        if self.over.done():
            return
        self.error = error
        if error is not None and self._connection is not None:
            self._connection.abort()
        self._connection = None
        self.over.set_result(None)
