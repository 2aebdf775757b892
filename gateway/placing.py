"""Has the router place requests, and lets those that it holds wait. Uses asyncio only to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.decisions import Decisions
from gateway.forward import ClientGone, Sink
from gateway.retry import Circuit
from headrace.core.clock import Clock
from headrace.core.errors import NoEndpoint
from headrace.core.ids import EndpointId, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.service.telemetry import Telemetry
from router.decide import Decision
from router.router import Router
from router.shadow import Shadow

TICK_S: Final = 0.02
"""How often held requests are looked at when nothing happens: queues shorten by time alone."""


class Placing:
    """Places requests and releases them; every change may let a held one go. One owner.

    Args:
        router: Decides.
        circuit: Knows which endpoints rest after a failure.
        clock: Tells the time.
        telemetry: Where to count.
        decisions: Keeps what was decided.
        shadow: A second policy that is asked too, or None.

    """

    def __init__(
        self,
        router: Router,
        circuit: Circuit,
        clock: Clock,
        telemetry: Telemetry,
        decisions: Decisions,
        shadow: Shadow | None,
    ) -> None:
        self._router = router
        self._circuit = circuit
        self._clock = clock
        self._decisions = decisions
        self._shadow = shadow
        self._waiting: dict[RequestId, asyncio.Future[Decision]] = {}
        self._recalls: dict[RequestId, Callable[[], None]] = {}
        self._seconds = telemetry.histogram("headrace_decision_seconds").labels()
        self._held = telemetry.counter("headrace_held_requests_total").labels()

    async def place(
        self,
        request: RouteRequest,
        tried: frozenset[EndpointId],
        *,
        name: str,
        attempt: int,
        sink: Sink,
    ) -> Decision:
        """Return where the request is to be sent, reserved; ``released`` must follow.

        Leaves out what was tried and, where others are left, what rests.

        Args:
            request: The request.
            tried: Endpoints that have failed it.
            name: What the client calls it.
            attempt: How many times it was sent before.
            sink: Tells when its client leaves while it is held.

        Raises:
            ModelNotFound, NoEndpoint: as ``Router.choose``.
            ClientGone: if the client left while it was held.

        """
        now_s = self._clock.now_s()
        decision = self._try(request, tried, attempt, now_s)
        self._seconds.observe(self._clock.now_s() - now_s)
        if decision is None:
            self._held.inc()
            decision = await self._wait(request, sink)
            now_s = self._clock.now_s()
        self._decisions.note(
            name,
            attempt,
            request,
            decision,
            now_s,
            candidates=decision.candidates,
            memory=decision.memory,
        )
        if self._shadow is not None:
            self._shadow.observe(request, decision.candidates, decision, attempt)
        return decision

    def first_token(self, request_id: RequestId, now_s: float) -> None:
        """Note a first token."""
        self._router.first_token(request_id, now_s)
        if self._waiting:
            self.changed()

    def sent(self, request_id: RequestId, recall: Callable[[], None]) -> None:
        """Take what calls a request back from its endpoint, where it can; until ``released``."""
        self._recalls[request_id] = recall

    def released(self, request_id: RequestId, usage: Usage | None) -> None:
        """Release a reserve, however the request ended."""
        self._recalls.pop(request_id, None)
        self._router.released(request_id, self._clock.now_s(), usage)
        if self._waiting:
            self.changed()

    def changed(self) -> None:
        """Send on the held requests that can go now; call whenever endpoints have changed."""
        if not self._waiting:
            return
        for request, decision in self._router.placed(self._clock.now_s()):
            self._answer(request, decision)
        for request in self._router.stranded():
            self._answer(request, None)

    def told(self) -> None:
        """Call back what news of other gateways show to be better placed anew; then ``changed``."""
        now_s = self._clock.now_s()
        for request in self._router.recalled(now_s, self._circuit.resting(now_s)):
            recall = self._recalls.get(request.request_id)
            if recall is not None:
                recall()
        self.changed()

    async def tick(self) -> None:
        """Look at held requests from time to time, for ever."""
        while True:
            await self._clock.sleep(TICK_S)
            self.changed()

    def _try(
        self, request: RouteRequest, tried: frozenset[EndpointId], attempt: int, now_s: float
    ) -> Decision | None:
        resting = self._circuit.resting(now_s)
        try:
            return self._router.place(request, now_s, tried | resting, attempt=attempt)
        except NoEndpoint:
            if not resting - tried:
                raise
            return self._router.place(request, now_s, tried, attempt=attempt)

    async def _wait(self, request: RouteRequest, sink: Sink) -> Decision:
        request_id = request.request_id
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future

        def gone() -> None:
            if not future.done():
                future.set_exception(ClientGone())

        sink.on_gone = gone
        if sink.gone:
            gone()
        try:
            return await future
        except BaseException:
            self._router.withdraw(request_id)
            if future.done() and not future.cancelled() and future.exception() is None:
                self.released(request_id, None)  # it was placed in the moment we gave up
            raise
        finally:
            del self._waiting[request_id]

    def _answer(self, request: RouteRequest, decision: Decision | None) -> None:
        future = self._waiting.get(request.request_id)
        if future is None or future.done():
            if decision is not None:
                self._router.released(request.request_id, self._clock.now_s())
        elif decision is not None:
            future.set_result(decision)
        else:
            future.set_exception(NoEndpoint(f"no endpoint is left for model {request.model!r}"))
