"""What other gateway replicas may have sent that nobody can have told us of yet. Pure.

Replicas that believe the same choose the same endpoint, and within the time that news take they do
so unawares. So each expects others' unseen work everywhere but on its own share of the endpoints,
and where the prompt is cached: where several endpoints are about as good each takes one of its own,
and where one is better by more than that work is worth, all take that one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from headrace.core.ids import EndpointId
from router.policy import Candidate
from router.reserve import ReplicaId

MEMORY_S: Final = 10.0
"""Time over which the rate of others' work is averaged."""

BOTH_WAYS: Final = 2.0
"""Two choices collide whether the other came just before ours or just after."""

SLACK_TOKENS: Final = 64.0
"""Difference in cached tokens that counts as none: one routing block.

In the twin, four replicas at 20 ms lose to one, over eight seeds of Mooncake's conversations that
no choice was made on, 4.7 % (standard error 0.7) of mean TTFT without any of this, 2.6 % (0.9) with
64 tokens, and 3.5 % (1.1) with 1,024, which also costs hits. On the five seeds before those, 1,024
had looked best."""


class Unseen:
    """Expected milliseconds of unseen work per endpoint. One owner."""

    def __init__(self) -> None:
        self._replicas: tuple[ReplicaId, ...] = ()
        self._own = 0
        self._delay_s = 0.0
        self._ms_per_s = 0.0
        self._at_s = 0.0
        self._others: frozenset[EndpointId] = frozenset()
        self._endpoints: tuple[EndpointId, ...] = ()

    def together(self, own: ReplicaId, others: Iterable[ReplicaId], delay_s: float) -> None:
        """Learn who shares, and how long news take from one to another."""
        self._delay_s = delay_s
        replicas = tuple(sorted({own, *others}))
        if replicas != self._replicas or replicas[self._own] != own:
            self._replicas = replicas
            self._own = replicas.index(own)
            self._divide()

    def endpoints(self, endpoints: Iterable[EndpointId]) -> None:
        """Learn which endpoints there are."""
        ordered = tuple(sorted(endpoints))
        if ordered != self._endpoints:
            self._endpoints = ordered
            self._divide()

    def sent(self, work_ms: float, now_s: float) -> None:
        """Note that another replica sent a prompt that takes so long to compute."""
        self._forget(now_s)
        self._ms_per_s += work_ms / MEMORY_S

    def charge(self, candidates: Sequence[Candidate], now_s: float) -> None:
        """Add the work to expect beyond what is known to the queues of new candidates.

        Those that hold more of the prompt than others do are left alone: only this request is
        drawn there, and to keep it away would cost what they hold.
        """
        if not self._others or not candidates:
            return
        self._forget(now_s)
        work_ms = BOTH_WAYS * self._delay_s * self._ms_per_s
        most = min(candidate.cached_tokens for candidate in candidates) + SLACK_TOKENS
        for candidate in candidates:
            if candidate.endpoint_id in self._others and candidate.cached_tokens <= most:
                candidate.queued_ms += work_ms

    def _divide(self) -> None:
        """Give each replica every n-th endpoint."""
        count = len(self._replicas)
        self._others = frozenset(
            endpoint
            for place, endpoint in enumerate(self._endpoints)
            if count and place % count != self._own
        )

    def _forget(self, now_s: float) -> None:
        if now_s > self._at_s:
            self._ms_per_s *= math.exp((self._at_s - now_s) / MEMORY_S)
            self._at_s = now_s
