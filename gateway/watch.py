"""Keeps a gateway in step with the endpoints there are, and its gauges up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.explaining import ShadowMetrics
from gateway.index_metrics import IndexMetrics
from gateway.preparing import Preparing
from gateway.serve import Parts, Service
from headrace.core.endpoint import Health
from headrace.runtime.discovery import EndpointSource
from kvcache.shell.subscriber import Subscriber
from router.router import Router

GAUGE_S: Final = 1.0
"""How often the gauges are brought up to date."""


class Watch:
    """Keeps the router, the pools and the gauges in step with the endpoints there are."""

    def __init__(
        self,
        router: Router,
        source: EndpointSource,
        parts: Parts,
        service: Service,
        subscriber: Subscriber,
        preparing: Preparing,
    ) -> None:
        self._router = router
        self._service = service
        self._subscriber = subscriber
        self._source = source
        self._parts = parts
        self._preparing = preparing
        telemetry = parts.telemetry
        self._inflight = telemetry.gauge("headrace_inflight_requests").labels()
        self._per_endpoint = telemetry.gauge("headrace_endpoint_inflight_requests")
        self._health = telemetry.gauge("headrace_endpoints")
        self._old = telemetry.gauge("headrace_endpoints_old").labels()
        self._held = telemetry.gauge("headrace_held_requests").labels()
        self._index = IndexMetrics(router, subscriber, telemetry, parts.clock)
        self._shadow = None if parts.shadow is None else ShadowMetrics(parts.shadow, telemetry)

    def apply(self) -> None:
        """Take the list as it is now."""
        views = self._source.endpoints()
        if self._parts.adapters is not None:
            views = self._parts.adapters.seen(views)
        before = {view.endpoint_id for view in self._router.endpoints()}
        self._router.set_endpoints(views, self._parts.clock.now_s())
        self._service.sources.forget()
        # one that is down has lost what it held: should it come back, its events begin anew
        self._subscriber.follow(view for view in views if view.health is not Health.DOWN)
        self._service.placing.changed()
        known = self._parts.upstream.keep(views)
        self._parts.circuit.keep(known)
        for endpoint_id in before - known:
            self._per_endpoint.forget(endpoint_id)
            self._index.forget(endpoint_id)
        for health in Health:
            count = sum(view.health is health for view in views)
            self._health.labels(health.value).set(count)
        self._preparing.changed()

    def tasks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return what must run in the background for all this, and its names."""
        return [
            ("endpoints", self.follow),
            ("kv-events", self._subscriber.run),
            ("gauges", self.measure),
        ]

    async def follow(self) -> None:
        """Apply every change, for ever."""
        while True:
            self.apply()
            await self._source.changed()

    async def measure(self) -> None:
        """Bring the gauges up to date, for ever."""
        while True:
            self._inflight.set(self._parts.admission.inflight)
            for view in self._router.endpoints():
                gauge = self._per_endpoint.labels(view.endpoint_id)
                gauge.set(self._router.inflight(view.endpoint_id))
            self._held.set(self._router.held)
            self._old.set(self._source.away)
            self._index.update()
            if self._shadow is not None:
                self._shadow.update()
            await asyncio.sleep(GAUGE_S)
