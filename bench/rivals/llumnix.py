"""Llumnix's cache-aware dispatch of 2026. Pure.

Source: Llumnix, ``cache_aware_all_prefills_tokens``: the least ``miss + all pending prefill
tokens``, with a ledger at dispatch that is reconciled with the instances' status.
"""

from __future__ import annotations

from typing import Final

from typing_extensions import override

from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest

STATUS_S: Final = 0.1
"""Seconds between status messages. In reality an instance pushes one when something happened,
which is oftener; what it has computed since is predicted, there with a fit of its step time."""


class Llumnix(Rule):
    """The fewest pending prompt tokens with this request's; equals by lot.

    It has the caches from KV events, each instance's pending tokens as of its last status less
    what its presumed speed computes since, and what was dispatched after that status.
    The oracle form has the pending tokens of now and the caches without lag.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        known = self._known
        missing = [request.prompt_tokens - cached for cached in known.cached_tokens(request)]
        pending = known.pending_tokens() if known.oracle else self._pending(now_s)
        index = known.lowest(list(map(sum, zip(pending, missing, strict=True))))
        return Choice(index, missing[index])

    def _pending(self, now_s: float) -> list[float]:
        return [self._pending_at(index, now_s) for index in range(self._known.size)]

    def _pending_at(self, index: int, now_s: float) -> float:
        known, report = self._known, self._known.reports[index]
        if report is None:
            return known.flights.booked_tokens[index]
        since = known.flights.ever_booked_tokens[index] - report.booked_before
        done = (now_s - report.load.at_s) * known.prefill_tokens_per_s[index]
        return max(0.0, report.pending_tokens + since - done)
