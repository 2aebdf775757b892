"""Means over seeds, their uncertainty, and ratios of paired runs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

T_975: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, two-sided 95 %, for 1 to 9 degrees of freedom."""

_TINY: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds and the bounds of its 95 % confidence interval.

    With one seed nothing is known of the spread: the bounds are the value itself.
    """

    value: float
    low: float
    high: float


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value and its interval by the t-distribution."""
    middle = math.fsum(values) / len(values)
    half = _half_width(values, middle)
    return Estimate(middle, middle - half, middle + half)


def ratio(ours: Sequence[float], others: Sequence[float]) -> Estimate:
    """Return the geometric mean of ours over theirs, seed by seed; both are >= 0.

    Pairs of zeros are equal; a lone zero counts as tiny, so that the ratio stays finite.
    """
    assert len(ours) == len(others)
    logs = [math.log(max(a, _TINY) / max(b, _TINY)) for a, b in zip(ours, others, strict=True)]
    middle = math.fsum(logs) / len(logs)
    half = _half_width(logs, middle)
    return Estimate(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def _half_width(values: Sequence[float], middle: float) -> float:
    count = len(values)
    if count < 2:
        return 0.0
    variance = math.fsum((value - middle) ** 2 for value in values) / (count - 1)
    t = T_975[min(count - 1, len(T_975)) - 1]
    return t * math.sqrt(variance / count)
