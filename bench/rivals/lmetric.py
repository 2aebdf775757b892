"""LMetric. Pure.

Source: arXiv 2603.15202: ``new prefill tokens x (batch size + 1)``, the lowest wins.
"""

from __future__ import annotations

from typing_extensions import override

from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest


class LMetric(Rule):
    """The lowest product of missing tokens and requests there, this one included.

    It has the match from KV events and its own count of requests in flight, as llm-d's
    ``lmetric-scorer``. The oracle form has the match without lag and the engines' own counts.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        known = self._known
        cached = known.cached_tokens(request)
        costs = [
            (request.prompt_tokens - tokens) * (count + 1)
            for tokens, count in zip(cached, known.counts(), strict=True)
        ]
        return Choice(known.lowest(costs))
