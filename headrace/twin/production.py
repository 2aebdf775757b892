"""The production router as what places requests in a twin run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest

from typing_extensions import override

from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import BlockScheme, EndpointView, EngineLoad
from headrace.core.ids import EndpointId, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.twin.placement import BlocksChanged, EngineTruth, Placed, Placement, Splitting
from kvcache.changes import Tier
from router.decide import Decision
from router.reserve import ReserveObserver
from router.router import Options, Router


class ProductionRouter(Placement, Splitting):
    """Calls the router as the gateway does.

    Args:
        policy: As in ``router.catalog.POLICIES``.
        seed: Of its ties.
        kv_events: Whether it follows KV events, or estimates what engines hold.
        options: Of the router.
        observer: Of its reserves.
        adapters: That requests may ask for.

    """

    scrape_s: float | None = 1.0

    def __init__(
        self,
        policy: str,
        seed: int,
        *,
        kv_events: bool = True,
        options: Options | None = None,
        observer: ReserveObserver | None = None,
        adapters: Sequence[AdapterSpec] = (),
    ) -> None:
        self.kv_events = kv_events
        self.router = Router(policy, replace(options or Options(), seed=seed), observer)
        self._adapters = tuple(adapters)
        self._views: dict[EndpointId, EndpointView] = {}

    @override
    def begin(
        self,
        views: Sequence[EndpointView],
        scheme: BlockScheme,
        truth: Callable[[EndpointId], EngineTruth],
    ) -> None:
        self._views = {view.endpoint_id: view for view in views}
        self.router.set_adapters(self._adapters)
        self.router.set_endpoints(self._views.values())
        if self.kv_events:
            for view in views:
                self.router.prefixes.scheme(view.endpoint_id, scheme)

    @override
    def submit(self, request: RouteRequest, now_s: float) -> Sequence[Placed]:
        decision = self.router.place(request, now_s)
        if decision is not None:
            return (_placed(request, decision),)
        return self.pump(now_s)

    @override
    def first_token(self, request_id: RequestId, now_s: float) -> Sequence[Placed]:
        self.router.first_token(request_id, now_s)
        return self.pump(now_s)

    @override
    def prefilled(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        self.router.prefilled(request_id, now_s, usage)
        return self.pump(now_s)

    @override
    def ended(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        self.router.released(request_id, now_s, usage)
        return self.pump(now_s)

    @override
    def changed(self, endpoint_id: EndpointId, change: BlocksChanged, now_s: float) -> None:
        prefixes = self.router.prefixes
        if change.cleared:
            prefixes.cleared(endpoint_id)
        if change.removed:
            prefixes.removed(endpoint_id, Tier.GPU, change.removed)
        ends = [begin for begin, _ in change.chains[1:]]
        for (begin, parent), end in zip_longest(change.chains, ends):
            prefixes.stored(endpoint_id, Tier.GPU, change.stored[begin:end], parent)

    @override
    def reported(self, endpoint_id: EndpointId, load: EngineLoad, now_s: float) -> Sequence[Placed]:
        self._views[endpoint_id] = replace(self._views[endpoint_id], load=load)
        self.router.set_endpoints(self._views.values(), now_s)
        return self.pump(now_s)

    @override
    def check(self) -> None:
        assert self.router.held == 0
        self.router.check()

    def call_back(self, now_s: float, call_back: Callable[[RouteRequest], None]) -> list[Placed]:
        """Have requests called back that are better placed anew; return what is to be sent."""
        placed: list[Placed] = []
        for request in self.router.recalled(now_s):
            call_back(request)
            self.router.released(request.request_id, now_s)
            decision = self.router.place(request, now_s, attempt=1)
            if decision is not None:
                placed.append(_placed(request, decision))
        return placed + self.pump(now_s)

    def pump(self, now_s: float) -> list[Placed]:
        """Return the held requests that are to be sent now."""
        placed: list[Placed] = []
        if self.router.held:
            for request, decision in self.router.placed(now_s):
                assert decision is not None, "engines never go away here"
                placed.append(_placed(request, decision))
        return placed


def _placed(request: RouteRequest, decision: Decision) -> Placed:
    return Placed(request, decision.endpoint_id, decision.candidate.prefill_id)
