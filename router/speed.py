"""How fast an endpoint computes prompts, learned from when first tokens came. Pure."""

from __future__ import annotations

from typing import Final

FORGET: Final = 0.97
"""Weight of an observation after each later one: about the last 33 count."""

PRIOR_WEIGHT: Final = 4.0
"""Observations that the variant's presumed speed counts for; they are never forgotten, which keeps
the fit defined when every prompt has the same length."""

BOUND: Final = 8.0
"""The fitted slope stays within this factor of the presumed one: an endpoint that stands still for
other reasons (a full KV cache, a stalled host) must not teach us that prompts never end."""

FIXED_MS: Final = 15.0
"""Presumed milliseconds that any prefill takes however short: one step of a mid-size model."""

PRIOR_TOKENS: Final = (256.0, 4_096.0)
"""Prompt lengths at which the prior is stated, so that it pins both slope and intercept."""


class PrefillSpeed:
    """Fits ``ms = fixed + per_token * tokens`` by least squares with forgetting.

    An observation is the time between two successive first tokens of one endpoint (or from the
    dispatch, where it was idle before), against the uncached tokens computed in between.
    """

    def __init__(self, tokens_per_s: float) -> None:
        assert tokens_per_s > 0
        self._presumed_ms = 1_000.0 / tokens_per_s
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self.fixed_ms = FIXED_MS
        self.per_token_ms = self._presumed_ms

    def observe(self, tokens: float, elapsed_ms: float) -> None:
        """Learn that ``tokens`` uncached prompt tokens took ``elapsed_ms``, both >= 0."""
        self._n = self._n * FORGET + 1.0
        self._x = self._x * FORGET + tokens
        self._y = self._y * FORGET + elapsed_ms
        self._xx = self._xx * FORGET + tokens * tokens
        self._xy = self._xy * FORGET + tokens * elapsed_ms
        self._fit()

    def ms(self, tokens: float) -> float:
        """Return the milliseconds that computing ``tokens`` uncached tokens should take."""
        return self.fixed_ms + self.per_token_ms * tokens

    def _fit(self) -> None:
        n, x, y, xx, xy = self._n, self._x, self._y, self._xx, self._xy
        for tokens in PRIOR_TOKENS:
            weight = PRIOR_WEIGHT / len(PRIOR_TOKENS)
            ms = FIXED_MS + self._presumed_ms * tokens
            n += weight
            x += weight * tokens
            y += weight * ms
            xx += weight * tokens * tokens
            xy += weight * tokens * ms
        slope = (n * xy - x * y) / (n * xx - x * x)
        slope = min(self._presumed_ms * BOUND, max(self._presumed_ms / BOUND, slope))
        self.per_token_ms = slope
        self.fixed_ms = max(0.0, (y - slope * x) / n)
