"""A token bucket that says how long to wait. Pure."""

from __future__ import annotations

from typing import Final

_NEARLY: Final = 1e-9
"""Of a token: what rounding may leave lacking after exactly the wait that was told."""


class TokenBucket:
    """Lets ``burst`` pass at once and ``per_s`` per second in the long run, in order of asking."""

    def __init__(self, per_s: float, burst: int) -> None:
        if per_s <= 0 or burst < 1:
            raise ValueError(f"per_s > 0 and burst >= 1 are needed, not {per_s} and {burst}")
        self._per_s = per_s
        self._burst = float(burst)
        self._tokens = float(burst)  # negative: promised to those who wait
        self._at_s: float | None = None

    def take(self, now_s: float, most_s: float) -> float | None:
        """Take one token and return the wait before it may be used, in seconds.

        Returns None, and takes nothing, where the wait would be longer than ``most_s``.
        """
        self._refill(now_s)
        wait_s = max(0.0, (1.0 - self._tokens) / self._per_s)
        if wait_s > most_s:
            return None
        self._tokens -= 1.0
        return wait_s

    def spare(self, now_s: float) -> float:
        """Take a token that nobody will miss, and return 0; else the wait before asking again.

        Half of the burst is kept for those who take, and whatever they were promised.
        """
        self._refill(now_s)
        lacking = 1.0 + min(self._burst // 2, self._burst - 1.0) - self._tokens
        if lacking > _NEARLY:
            return lacking / self._per_s
        self._tokens -= 1.0
        return 0.0

    def _refill(self, now_s: float) -> None:
        since_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s if self._at_s is None else max(now_s, self._at_s)
        self._tokens = min(self._burst, self._tokens + since_s * self._per_s)
