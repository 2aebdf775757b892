"""What is known of engines' caches, as metrics. Writes to telemetry."""

from __future__ import annotations

from headrace.core.clock import Clock
from headrace.core.ids import EndpointId
from headrace.service.telemetry import Telemetry
from kvcache.shell.subscriber import Subscriber
from kvcache.stream import StreamState
from router.router import Router


class IndexMetrics:
    """Brings the metrics of the prefix index and of the KV event streams up to date."""

    def __init__(
        self, router: Router, subscriber: Subscriber, telemetry: Telemetry, clock: Clock
    ) -> None:
        self._router = router
        self._subscriber = subscriber
        self._clock = clock
        self._blocks = telemetry.gauge("headrace_prefix_blocks")
        self._synced = telemetry.gauge("headrace_kv_events_synced")
        self._age = telemetry.gauge("headrace_kv_event_age_seconds")
        self._gaps = telemetry.counter("headrace_kv_event_gaps_total").labels()
        self._resyncs = telemetry.counter("headrace_kv_event_resyncs_total").labels()
        self._seen: dict[EndpointId, tuple[int, int]] = {}

    def update(self) -> None:
        """Do so."""
        status = self._subscriber.status()
        now_s = self._clock.now_s()
        for view in self._router.endpoints():
            endpoint_id = view.endpoint_id
            self._blocks.labels(endpoint_id).set(self._router.prefixes.blocks(endpoint_id))
        for endpoint_id, stream in status.items():
            self._synced.labels(endpoint_id).set(stream.state is StreamState.SYNCED)
            if stream.heard_s is not None:
                self._age.labels(endpoint_id).set(now_s - stream.heard_s)
            gaps, resyncs = self._seen.get(endpoint_id, (0, 0))
            self._gaps.inc(max(0, stream.counters.gaps - gaps))
            self._resyncs.inc(max(0, stream.counters.resyncs - resyncs))
            self._seen[endpoint_id] = (stream.counters.gaps, stream.counters.resyncs)
        for endpoint_id in self._seen.keys() - status.keys():
            del self._seen[endpoint_id]
            self._synced.forget(endpoint_id)
            self._age.forget(endpoint_id)

    def forget(self, endpoint_id: EndpointId) -> None:
        """Drop the series of an endpoint that is gone."""
        self._blocks.forget(endpoint_id)
