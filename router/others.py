"""What other gateway replicas have in flight, in our own ledger. Pure."""

from __future__ import annotations

from dataclasses import replace

from typing_extensions import override

from headrace.core.endpoint import Speed
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from router.endpoints import Endpoints
from router.ledger import Ledger
from router.prefixes import Prefixes
from router.races import Races
from router.reserve import ReplicaId, Reserve, ReserveSink


class OtherReplicas(ReserveSink):
    """Enters reserves of other replicas, and what their requests will leave in caches."""

    def __init__(
        self,
        ledger: Ledger,
        prefixes: Prefixes,
        endpoints: Endpoints,
        races: Races,
        time_scale: float,
    ) -> None:
        self._ledger = ledger
        self._prefixes = prefixes
        self._endpoints = endpoints
        self._races = races
        self._time_scale = time_scale
        self._requests: dict[ReplicaId, set[RequestId]] = {}
        self._coming: dict[RequestId, tuple[EndpointId, RouteRequest, float]] = {}

    @override
    def late(self, most_s: float) -> None:
        self._ledger.late(most_s * self._time_scale)

    @override
    def remote_dispatched(self, replica: ReplicaId, reserve: Reserve) -> None:
        request_id = _theirs(replica, reserve.request_id)
        engine_s = reserve.dispatched_s * self._time_scale
        speed = self._speed(reserve.endpoint_id)
        presumed = (speed or Speed()).prefill_tokens_per_s / self._time_scale
        self._ledger.load(reserve.endpoint_id, presumed)
        if not reserve.decoding:
            self._races.came(reserve.endpoint_id, engine_s)
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
            if not reserve.silent and not reserve.decoding:
                cached_tokens = _told_tokens(reserve) - reserve.miss_tokens
                self._coming[request_id] = (reserve.endpoint_id, request, max(0.0, cached_tokens))

    @override
    def remote_first_token(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        self._ledger.first_token(_theirs(replica, request_id), now_s * self._time_scale)
        self._coming.pop(_theirs(replica, request_id), None)

    @override
    def remote_released(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        theirs = _theirs(replica, request_id)
        self._released(theirs, now_s)
        known = self._requests.get(replica)
        if known is not None:
            known.discard(theirs)

    @override
    def remote_lost(self, replica: ReplicaId, now_s: float) -> None:
        for request_id in sorted(self._requests.pop(replica, ())):
            self._released(request_id, now_s)

    def _released(self, request_id: RequestId, now_s: float) -> None:
        self._ledger.released(request_id, now_s * self._time_scale)
        unbegun = self._coming.pop(request_id, None)
        if unbegun is not None:
            self._prefixes.unsent(*unbegun)

    def _speed(self, endpoint_id: EndpointId) -> Speed | None:
        """Return what is presumed of an endpoint; None: the other found it and we have yet to."""
        try:
            return self._endpoints.get(endpoint_id).speed
        except KeyError:
            return None


def _told_tokens(reserve: Reserve) -> float:
    """Return the prompt's length as far as the blocks told of it reach."""
    told = [scheme.block_tokens * len(hashes) for scheme, hashes in reserve.engine_blocks.items()]
    return max([reserve.block_tokens * len(reserve.blocks), *map(float, told)])


def _theirs(replica: ReplicaId, request_id: RequestId) -> RequestId:
    return RequestId(f"{replica}/{request_id}")
