"""How much comes to an endpoint: requests, and work, per millisecond. Pure."""

from __future__ import annotations

import math
from typing import Final

MEMORY_S: Final = 10.0
"""Engine seconds that count, by weight falling off as 1/e: long against what one burst does, which
the queue tells better, short against how traffic changes."""

SEEN_LEAST: Final = 0.1
"""Least share of ``MEMORY_S`` that is taken to have been seen: one request is not yet a rate."""


class Flow:
    """Rates of one endpoint, right from the first second on. Its owner says what time it is."""

    def __init__(self) -> None:
        self._requests = 0.0
        self._work_ms = 0.0
        self._unseen = 1.0  # weight of the time before the first request
        self._at_s = -1.0

    def sent(self, work_ms: float, now_s: float) -> None:
        """Note one request, and the milliseconds for which its prompt will be computed."""
        if self._at_s < 0.0:
            self._at_s = now_s
        if now_s > self._at_s:
            kept = math.exp((self._at_s - now_s) / MEMORY_S)
            self._requests *= kept
            self._work_ms *= kept
            self._unseen *= kept
            self._at_s = now_s
        self._requests += 1.0
        self._work_ms += work_ms

    def rates(self, now_s: float) -> tuple[float, float]:
        """Return requests per millisecond, and milliseconds of work per millisecond."""
        if not self._requests:
            return 0.0, 0.0
        kept = math.exp((self._at_s - now_s) / MEMORY_S) if now_s > self._at_s else 1.0
        per_ms = kept / (max(SEEN_LEAST, 1.0 - kept * self._unseen) * MEMORY_S * 1_000.0)
        return self._requests * per_ms, self._work_ms * per_ms
