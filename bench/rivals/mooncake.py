"""Mooncake's conductor. Pure.

Source: Mooncake, FAST'25, algorithm 1: the instance with the least estimated time of its queue
plus the prefill of what it misses.
"""

from __future__ import annotations

from typing_extensions import override

from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest


class Mooncake(Rule):
    """The least ``queue + prefill(miss)`` in seconds; equals by lot.

    It has every instance's cache from KV events, an offline fit of prefill time per instance (here
    its linear part, the endpoint's presumed speed), and accounts the prefills that it dispatched
    until they are done. Engines here fetch no KV from one another, so that its threshold rule,
    which decides between fetching and computing, has only one branch; nothing is rejected.
    The oracle form has the engines' pending prompt tokens and the caches without lag.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        known = self._known
        missing = [request.prompt_tokens - cached for cached in known.cached_tokens(request)]
        ttfts_s = [
            (queued + miss) / speed
            for queued, miss, speed in zip(
                known.pending_tokens(), missing, known.prefill_tokens_per_s, strict=True
            )
        ]
        index = known.lowest(ttfts_s)
        return Choice(index, missing[index])
