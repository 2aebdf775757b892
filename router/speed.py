"""How fast an endpoint computes prompts, learned from when first tokens came. Pure."""

from __future__ import annotations

from typing import Final

FORGET: Final = 0.98
"""Weight of an observation after each later one: about the last 50 count."""

PRIOR_WEIGHT: Final = 6.0
"""Observations that the variant's presumed speed counts for; they are never forgotten, which keeps
the fit defined when every prompt has the same length. They are taken to be as much slower or faster
as all that was observed: a wrong presumption of the speed must not look like one of its shape."""

BOUND: Final = 8.0
"""Observed times and fitted slopes stay within this factor of the presumed ones: an endpoint that
stands still for other reasons (a full KV cache, a stalled host) must not teach us that prompts
never end, or it would never be tried again."""

FIXED_MS: Final = 15.0
"""Presumed milliseconds that any prefill takes however short: one step of a mid-size model."""

EVEN_TOKENS: Final = 32_768.0
"""Presumed context at which a token's attention costs as much as all else of it. For an 8B model
with 32 layers of width 4,096: 16 GFLOP against 0.5 MFLOP per token of context."""

PRIOR_TOKENS: Final = (256.0, 4_096.0, 32_768.0)
"""Prompt lengths at which the prior is stated, so that it pins three of the coefficients."""

BESIDE_PRIOR: Final = 20.0
"""Weight of the prior that what is decoded beside a prompt does not delay it."""

STEP_S: Final = 0.003
"""First tokens that come closer together than this were computed in one step: engines compute short
prompts many at a time, and a step takes several times as long."""

_TOKENS: Final = 1_024.0
_PAIRS: Final = 1_024.0 * 32_768.0
_BESIDE: Final = 100_000.0
"""Units of the fit, so that its sums are of like size."""

_Row = tuple[float, float, float, float]


def token_pairs(miss_tokens: float, cached_tokens: float) -> float:
    """Return over how many earlier tokens the uncached ones attend: the quadratic term's size."""
    return miss_tokens * (cached_tokens + miss_tokens / 2.0)


class PrefillSpeed:
    """Fits four costs by least squares, forgetting.

    ``ms = fixed + per_token * tokens + per_pair * pairs + per_beside * beside``, where ``beside``
    is the KV tokens of the requests already there: a prompt waits for the step under way, and
    shares its own steps with their decoding, which takes the longer the more they hold.

    An observation is one step: the time since the first tokens before (or from the dispatch, where
    it was idle before), against what was computed in between. Prompts of one step taken one by one
    would show all of its time on the first and none on the others, and hide what a token costs.
    """

    def __init__(self, tokens_per_s: float) -> None:
        assert tokens_per_s > 0
        self.presumed_tokens_per_s = tokens_per_s
        self._presumed_ms = 1_000.0 / tokens_per_s
        self.fixed_ms = FIXED_MS
        self.per_token_ms = self._presumed_ms
        self.per_pair_ms = self._presumed_ms / EVEN_TOKENS
        self.per_beside_ms = 0.0
        self._prior = [0.0] * 14
        self._sums = [0.0] * 14
        weight = PRIOR_WEIGHT / len(PRIOR_TOKENS)
        for tokens in PRIOR_TOKENS:
            pairs = token_pairs(tokens, 0.0)
            _add(self._prior, weight, (tokens, pairs, 0.0, self.ms(tokens, pairs)))
        self._prior[9] += BESIDE_PRIOR
        self._step_s = -STEP_S
        self._step: tuple[float, float, float, float] | None = None

    def first_token(
        self, tokens: float, pairs: float, beside: float, elapsed_ms: float, now_s: float
    ) -> None:
        """Learn that a prompt has been computed; told once the next step shows its first token.

        Args:
            tokens: As ``observe``, as are pairs, beside and elapsed_ms.
            pairs: Likewise.
            beside: Likewise.
            elapsed_ms: Likewise; of a step, what its first prompt took.
            now_s: When its first token came, in engine seconds.

        """
        if self._step is None or now_s - self._step_s >= STEP_S:
            if self._step is not None:
                self.observe(*self._step)
            self._step_s, self._step = now_s, (tokens, pairs, beside, elapsed_ms)
            return
        first = self._step
        self._step = (first[0] + tokens, first[1] + pairs, max(first[2], beside), first[3])

    def observe(self, tokens: float, pairs: float, beside: float, elapsed_ms: float) -> None:
        """Learn that a step in which ``tokens`` were computed took ``elapsed_ms``.

        Args:
            tokens: Uncached prompt tokens.
            pairs: As ``token_pairs``.
            beside: KV tokens of the requests already there when it was sent.
            elapsed_ms: Since the endpoint was free for it.

        """
        presumed_ms = self._presumed_ms * (tokens + pairs / EVEN_TOKENS) + FIXED_MS
        elapsed_ms = min(elapsed_ms, BOUND * presumed_ms)
        self._sums = [value * FORGET for value in self._sums]
        _add(self._sums, 1.0, (tokens, pairs, beside, elapsed_ms))
        self._fit()

    def ms(self, tokens: float, pairs: float) -> float:
        """Return the milliseconds that computing ``tokens`` with ``pairs`` takes by itself."""
        return self.fixed_ms + self.work_ms(tokens, pairs)

    def work_ms(self, tokens: float, pairs: float) -> float:
        """Return what they add to a step that is made anyway."""
        return self.per_token_ms * tokens + self.per_pair_ms * pairs

    def _slower_ratio(self) -> float:
        """Return the time that all took over what it was presumed to take."""
        n, x, z = (a + b for a, b in zip(self._prior[:3], self._sums[:3], strict=True))
        presumed = FIXED_MS * n + self._presumed_ms * (_TOKENS * x + _PAIRS / EVEN_TOKENS * z)
        return (self._prior[10] + self._sums[10]) / presumed

    def _fit(self) -> None:
        slower = self._slower_ratio()
        prior = self._prior[:10] + [slower * value for value in self._prior[10:]]
        n, x, z, r, xx, xz, xr, zz, zr, rr, y, xy, zy, ry = (
            a + b for a, b in zip(prior, self._sums, strict=True)
        )
        # centred on the means, which leaves three equations; then one unknown after the other
        sxx, sxz, sxr = xx - x * x / n, xz - x * z / n, xr - x * r / n
        szz, szr, srr = zz - z * z / n, zr - z * r / n, rr - r * r / n
        sxy, szy, sry = xy - x * y / n, zy - z * y / n, ry - r * y / n
        tzz, tzr, tzy = szz - sxz * sxz / sxx, szr - sxz * sxr / sxx, szy - sxz * sxy / sxx
        trr, try_ = srr - sxr * sxr / sxx, sry - sxr * sxy / sxx
        beside = max(0.0, (try_ - tzr * tzy / tzz) / (trr - tzr * tzr / tzz))
        presumed = self._presumed_ms * _TOKENS
        presumed_pair = self._presumed_ms / EVEN_TOKENS * _PAIRS
        pair = (tzy - tzr * beside) / tzz
        pair = min(BOUND * presumed_pair, max(presumed_pair / BOUND, pair))
        slope = (sxy - sxz * pair - sxr * beside) / sxx
        slope = min(BOUND * presumed, max(presumed / BOUND, slope))
        self.per_token_ms = slope / _TOKENS
        self.per_pair_ms = pair / _PAIRS
        self.per_beside_ms = beside / _BESIDE
        self.fixed_ms = max(0.0, (y - slope * x - pair * z - beside * r) / n)


def _add(sums: list[float], weight: float, row: _Row) -> None:
    """Add one observation; short ones tell more, as their times vary less."""
    tokens, pairs, beside, ms = row
    x, z, r = tokens / _TOKENS, pairs / _PAIRS, beside / _BESIDE
    weight /= 1.0 + x / 4.0
    terms = (1.0, x, z, r, x * x, x * z, x * r, z * z, z * r, r * r, ms, x * ms, z * ms, r * ms)
    for place, value in enumerate(terms):
        sums[place] += weight * value
