from __future__ import annotations

from collections.abc import Mapping

import pytest

from bench.routing.capacity import Place, Probe, best_of, rate_rps, settle, step_near

PLACE: Place = ("trace", "fleet", 1)


def found(limits: Mapping[str, int], start: int) -> tuple[Probe, int]:
    """Search where each policy sustains every step up to its limit; return how many runs it took."""
    asked = 0

    def ask(questions: Mapping[Place, Probe]) -> dict[Place, bool]:
        nonlocal asked
        asked += len(questions)
        return {place: probe.step <= limits[probe.policy] for place, probe in questions.items()}

    return settle({PLACE: best_of(list(limits), start)}, ask)[PLACE], asked


@pytest.mark.parametrize("limit", [-30, -1, 0, 1, 7, 8, 9, 50])
@pytest.mark.parametrize("start", [-20, 0, 13])
def test_the_highest_sustained_step_is_found_wherever_the_search_begins(
    limit: int, start: int
) -> None:
    best, _ = found({"one": limit}, start)
    assert best == Probe("one", limit)


def test_the_best_of_several_policies_wins() -> None:
    best, _ = found({"one": 10, "two": 25, "three": 24}, 0)
    assert best == Probe("two", 25)


def test_a_policy_that_is_no_better_is_asked_once() -> None:
    _, alone = found({"one": 10}, 0)
    _, beside = found({"one": 10, "two": 10, "three": 3}, 0)
    assert beside == alone + 2


def test_a_policy_that_sustains_nothing_is_an_error_and_so_is_one_that_sustains_all() -> None:
    with pytest.raises(ValueError, match="no rate"):
        found({"one": -10_000}, 0)
    with pytest.raises(ValueError, match="any rate"):
        found({"one": 10_000}, 0)


def test_searches_go_side_by_side_and_end_when_they_are_done() -> None:
    limits = {("a", "f", 1): 3, ("b", "f", 1): 40}
    rounds: list[int] = []

    def ask(questions: Mapping[Place, Probe]) -> dict[Place, bool]:
        rounds.append(len(questions))
        return {place: probe.step <= limits[place] for place, probe in questions.items()}

    ends = settle({place: best_of(["p"], 0) for place in limits}, ask)
    assert {place: probe.step for place, probe in ends.items()} == limits
    assert rounds[0] == 2
    assert rounds[-1] == 1


def test_steps_and_rates_are_inverse() -> None:
    for step in (-40, 0, 17, 300):
        assert step_near(rate_rps(step)) == step
    assert rate_rps(0) == 1.0
