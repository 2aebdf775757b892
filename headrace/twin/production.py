"""The production router as what places requests in a twin run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from typing_extensions import override

from headrace.core.endpoint import BlockScheme, EndpointView, EngineLoad
from headrace.core.ids import EndpointId, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.twin.placement import BlocksChanged, EngineTruth, Placed, Placement
from router.router import Router


class ProductionRouter(Placement):
    """Calls the router as the gateway does.

    Args:
        policy: As in ``router.catalog.POLICIES``.
        seed: Of its ties.

    """

    scrape_s: float | None = None

    def __init__(self, policy: str, seed: int, *, kv_events: bool = False) -> None:
        self.kv_events = kv_events
        self.router = Router(policy, seed)

    @override
    def begin(
        self,
        views: Sequence[EndpointView],
        scheme: BlockScheme,
        truth: Callable[[EndpointId], EngineTruth],
    ) -> None:
        self.router.set_endpoints(views)

    @override
    def submit(self, request: RouteRequest, now_s: float) -> Sequence[Placed]:
        decision = self.router.choose(request, now_s)
        self.router.dispatched(request, decision, now_s)
        return (Placed(request, decision.endpoint_id),)

    @override
    def first_token(self, request_id: RequestId, now_s: float) -> Sequence[Placed]:
        self.router.first_token(request_id, now_s)
        return ()

    @override
    def ended(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        self.router.released(request_id, now_s)
        return ()

    @override
    def changed(self, endpoint_id: EndpointId, change: BlocksChanged, now_s: float) -> None:
        raise AssertionError("it does not listen yet")

    @override
    def reported(self, endpoint_id: EndpointId, load: EngineLoad, now_s: float) -> Sequence[Placed]:
        return ()

    @override
    def check(self) -> None:
        self.router.check()
