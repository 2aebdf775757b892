"""Whether an engine that is to end has nothing in hand, by its own count. Pure but for the clock.

Gateways that are apart do not tell what they have in flight, but the engine knows; and they hear
late that it goes, so it must have been idle for a while.
"""

from __future__ import annotations

import math

from headrace.core.clock import Clock
from headrace.core.ids import EndpointId
from headrace.runtime.discovery import EndpointSource
from headrace.runtime.sidecar.drain import Drain


class EngineCount:
    """The ``inflight`` of a fleet whose gateways are apart. ``watch`` its source before it stops.

    The first time that an endpoint is asked about it has just been announced as draining: only
    what its engine reported since counts.
    """

    def __init__(self, clock: Clock, settle_s: float) -> None:
        self._clock = clock
        self._settle_s = settle_s
        self._source: EndpointSource | None = None
        self._drains: dict[EndpointId, Drain] = {}
        self._seen_at_s: dict[EndpointId, float] = {}

    def watch(self, source: EndpointSource) -> None:
        """Take the reports of the engines from there."""
        self._source = source

    def __call__(self, endpoint_id: EndpointId) -> int:
        """Return requests in the engine, at least one until it has been idle for long enough.

        None for an endpoint that is not there.
        """
        assert self._source is not None, "watch first"
        views = self._source.endpoints()
        view = next((view for view in views if view.endpoint_id == endpoint_id), None)
        if view is None:
            return 0
        now_s = self._clock.now_s()
        drain = self._drains.setdefault(endpoint_id, Drain(now_s, self._settle_s, math.inf))
        load = view.load
        if load is None or load.at_s < drain.began_s:
            return 1
        if load.at_s > self._seen_at_s.get(endpoint_id, -math.inf):
            self._seen_at_s[endpoint_id] = load.at_s
            drain = self._drains[endpoint_id] = drain.saw(load.running, load.waiting, load.at_s)
        if drain.over(load.at_s) is not None:
            return 0
        return max(1, load.running + load.waiting)
