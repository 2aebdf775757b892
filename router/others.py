"""What other gateway replicas have in flight, in our own ledger. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from typing_extensions import override

from headrace.core.endpoint import Speed
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from router.endpoints import Endpoints
from router.ledger import Ledger
from router.prefixes import Prefixes
from router.reserve import ReplicaId, Reserve, ReserveSink
from router.unseen import Unseen


class OtherReplicas(ReserveSink):
    """Enters reserves of other replicas, and what their requests will leave in caches."""

    def __init__(
        self,
        ledger: Ledger,
        prefixes: Prefixes,
        endpoints: Endpoints,
        unseen: Unseen,
        time_scale: float,
    ) -> None:
        self._ledger = ledger
        self._prefixes = prefixes
        self._endpoints = endpoints
        self._unseen = unseen
        self._time_scale = time_scale
        self._requests: dict[ReplicaId, set[RequestId]] = {}

    @override
    def together(self, own: ReplicaId, others: Iterable[ReplicaId], delay_s: float) -> None:
        self._unseen.together(own, others, delay_s * self._time_scale)

    @override
    def remote_dispatched(self, replica: ReplicaId, reserve: Reserve) -> None:
        request_id = _theirs(replica, reserve.request_id)
        engine_s = reserve.dispatched_s * self._time_scale
        speed = self._speed(reserve.endpoint_id)
        presumed = (speed or Speed()).prefill_tokens_per_s / self._time_scale
        load = self._ledger.load(reserve.endpoint_id, presumed)
        if not reserve.decoding:
            self._unseen.sent(load.speed.ms(reserve.miss_tokens, 0.0), engine_s)
        self._ledger.dispatched_elsewhere(request_id, replace(reserve, dispatched_s=engine_s))
        self._requests.setdefault(replica, set()).add(request_id)
        if speed is not None and (reserve.blocks or reserve.engine_blocks):
            request = RouteRequest(
                request_id,
                ModelName(""),
                0,
                blocks=tuple(reserve.blocks),
                block_tokens=reserve.block_tokens,
                engine_blocks=reserve.engine_blocks,
            )
            self._prefixes.sent(reserve.endpoint_id, request, speed.kv_tokens, engine_s)

    @override
    def remote_first_token(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        self._ledger.first_token(_theirs(replica, request_id), now_s * self._time_scale)

    @override
    def remote_released(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        theirs = _theirs(replica, request_id)
        self._ledger.released(theirs, now_s * self._time_scale)
        known = self._requests.get(replica)
        if known is not None:
            known.discard(theirs)

    @override
    def remote_lost(self, replica: ReplicaId, now_s: float) -> None:
        for request_id in sorted(self._requests.pop(replica, ())):
            self._ledger.released(request_id, now_s * self._time_scale)

    def _speed(self, endpoint_id: EndpointId) -> Speed | None:
        """Return what is presumed of an endpoint; None: the other found it and we have yet to."""
        try:
            return self._endpoints.get(endpoint_id).speed
        except KeyError:
            return None


def _theirs(replica: ReplicaId, request_id: RequestId) -> RequestId:
    return RequestId(f"{replica}/{request_id}")
