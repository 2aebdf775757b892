"""A sink of other replicas' reserves that keeps them, and insists on being told consistently."""

from __future__ import annotations

from dataclasses import replace

from typing_extensions import override

from headrace.core.ids import RequestId
from router.reserve import ReplicaId, Reserve, ReserveSink


class Mirror(ReserveSink):
    def __init__(self) -> None:
        self.held: dict[ReplicaId, dict[RequestId, Reserve]] = {}
        self.late_s = 0.0
        self.first_at_s: dict[tuple[ReplicaId, RequestId], float] = {}

    def view(self, replica: ReplicaId) -> dict[RequestId, tuple[str, float, bool]]:
        """What matters of the reserves of one replica."""
        return essence(self.held.get(replica, {}))

    @override
    def late(self, most_s: float) -> None:
        self.late_s = most_s

    @override
    def remote_dispatched(self, replica: ReplicaId, reserve: Reserve) -> None:
        theirs = self.held.setdefault(replica, {})
        assert reserve.request_id not in theirs
        theirs[reserve.request_id] = reserve

    @override
    def remote_first_token(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        reserve = self.held[replica][request_id]
        assert not reserve.decoding
        self.held[replica][request_id] = replace(reserve, decoding=True)
        self.first_at_s[replica, request_id] = now_s

    @override
    def remote_released(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        del self.held[replica][request_id]

    @override
    def remote_lost(self, replica: ReplicaId, now_s: float) -> None:
        self.held.pop(replica, None)


def essence(held: dict[RequestId, Reserve]) -> dict[RequestId, tuple[str, float, bool]]:
    return {
        request_id: (one.endpoint_id, one.miss_tokens, one.decoding)
        for request_id, one in held.items()
    }
