from __future__ import annotations

from bench.rivals.aibrix import PrefixCache
from tests.unit.bench.rivals.stage import Stage


def loaded(stage: Stage, index: int, requests: int) -> None:
    """Let the router believe that so many requests are there."""
    rule = stage.rival._rule
    assert isinstance(rule, PrefixCache)
    rule._known.flights.requests[index] = requests


def test_the_longest_match_wins_and_the_lighter_of_equal_ones() -> None:
    stage = Stage(PrefixCache, 4)
    first = stage.send(1, 2, 3)
    assert stage.send(1, 2) == first
    rule = stage.rival._rule
    assert isinstance(rule, PrefixCache)
    other = (first + 1) % 4
    rule._sent.sent(other, (1, 2, 3), 0.0)
    assert stage.send(1, 2, 3) == other  # no requests there against two


def test_a_match_may_be_two_deviations_above_the_mean() -> None:
    # 4 endpoints, one with 4: mean 1, deviation sqrt(3): the limit is 4.46.
    stage = Stage(PrefixCache, 4)
    owner = stage.send(1, 2)
    loaded(stage, owner, 4)
    assert stage.send(1, 2) == owner
    # 8 endpoints, one with 12: mean 1.5, deviation sqrt(15.75): the limit is 9.44.
    stage = Stage(PrefixCache, 8)
    owner = stage.send(1, 2)
    loaded(stage, owner, 12)
    assert stage.send(1, 2) != owner


def test_a_worse_match_that_is_not_overloaded_is_taken_before_the_least_loaded() -> None:
    stage = Stage(PrefixCache, 8)
    owner = stage.send(1, 2)
    loaded(stage, owner, 12)
    second = stage.send(1, 5)
    loaded(stage, owner, 12)
    assert stage.send(1, 2, 3) == second


def test_beyond_a_spread_of_16_matches_do_not_count() -> None:
    stage = Stage(PrefixCache, 2)  # with two, two deviations are never exceeded
    owner = stage.send(1, 2)
    loaded(stage, owner, 16)
    assert stage.send(1, 2) == owner
    assert stage.send(1, 2) != owner


def test_nothing_matched_goes_to_the_fewest_requests_and_equals_are_drawn() -> None:
    stage = Stage(PrefixCache, 4)
    assert {stage.send(10 * number) for number in range(4)} == {0, 1, 2, 3}
    assert {Stage(PrefixCache, 4, seed=seed).send(1) for seed in range(30)} == {0, 1, 2, 3}


def test_what_was_sent_is_forgotten_after_twenty_minutes() -> None:
    stage = Stage(PrefixCache, 8)
    request_id, owner = stage.place(1, 2)
    stage.end(request_id)
    stage.now_s = 1_199.0
    assert stage.send(1, 2) == owner
    stage.now_s = 1_199.0 + 1_200.0
    assert stage.send(1, 2) != owner  # seven have fewer requests


def test_the_oracle_knows_what_is_held_and_who_works() -> None:
    stage = Stage(PrefixCache, 4, oracle=True)
    stage.holds(2, 1, 2)
    assert stage.send(1, 2) == 2
    stage.reports(2, running=17)
    assert stage.send(1, 2) != 2
