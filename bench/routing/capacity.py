"""Finds the rate that 100 % stands for. Pure: asks for runs by yielding them.

A policy sustains a rate if three quarters of the requests meet both targets. The share falls so
steeply at capacity (from nine tenths to under a half within a tenth of the rate) that another
limit would give nearly the same rate. Tried and dropped: throughput under overload, which falls by
half where sessions live on cached prefixes, as overload evicts them all; and the mean TTFT, which a
policy that lets short prompts go first keeps low long after most requests have missed their TPOT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

STEP_RATIO: Final = 1.025
"""Rates are powers of this: a small change of the code meets the runs already made."""

_STRIDE: Final = 8  # steps of the first search, 22 %
_BOUND: Final = 400  # steps; a rate of 19,500 per second


@dataclass(frozen=True, slots=True)
class Probe:
    """A question: does ``policy`` sustain the rate of ``step``?"""

    policy: str
    step: int


Search = Generator[Probe, bool, Probe]
"""Yields questions, is sent the answers, returns the highest step found and whose it is."""

Place = tuple[str, str, int]
"""Trace, fleet and seed: what a rate is searched for."""


def settle(
    searches: Mapping[Place, Search], ask: Callable[[Mapping[Place, Probe]], Mapping[Place, bool]]
) -> dict[Place, Probe]:
    """Take all searches to their end side by side, so that their runs can be made together.

    Args:
        searches: Not yet begun.
        ask: Answers one question of each search that still has one.

    """
    found: dict[Place, Probe] = {}
    asked = {place: next(search) for place, search in searches.items()}
    while asked:
        answers = ask(asked)
        following: dict[Place, Probe] = {}
        for place in asked:
            try:
                following[place] = searches[place].send(answers[place])
            except StopIteration as stop:
                found[place] = stop.value
        asked = following
    return found


def rate_rps(step: float) -> float:
    """Return requests per second of a step."""
    return float(f"{STEP_RATIO**step:.6g}")


def step_near(rate: float) -> int:
    """Return the step whose rate is nearest to ``rate`` > 0."""
    return round(math.log(rate) / math.log(STEP_RATIO))


def best_of(policies: Sequence[str], start: int) -> Search:
    """Search for the highest step that any of ``policies`` sustains, from ``start`` on.

    The first is searched both ways; the others are only asked whether they do better.
    """
    best = yield from _search(policies[0], start)
    for policy in policies[1:]:
        if (yield Probe(policy, best.step + 1)):
            best = yield from _climb(policy, best.step + 1)
    return best


def _search(policy: str, start: int) -> Search:
    low = start
    if (yield Probe(policy, start)):
        return (yield from _climb(policy, start))
    while low > -_BOUND:
        low -= _STRIDE
        if (yield Probe(policy, low)):
            return (yield from _between(policy, low, low + _STRIDE))
    raise ValueError(f"{policy} sustains no rate, however low")


def _climb(policy: str, low: int) -> Search:
    """Go up from a step that is sustained."""
    while low < _BOUND:
        if not (yield Probe(policy, low + _STRIDE)):
            return (yield from _between(policy, low, low + _STRIDE))
        low += _STRIDE
    raise ValueError(f"{policy} sustains any rate, however high")


def _between(policy: str, low: int, high: int) -> Search:
    """Halve the space between a step that is sustained and one that is not."""
    while high - low > 1:
        middle = (low + high) // 2
        if (yield Probe(policy, middle)):
            low = middle
        else:
            high = middle
    return Probe(policy, low)
