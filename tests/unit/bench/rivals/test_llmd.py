from __future__ import annotations

import pytest

from bench.rivals.llmd import Affinity, Approximate, DefaultWeights, Exact, Precise, spread
from bench.rivals.rival import Known, Rule
from tests.unit.bench.rivals.stage import Stage


def approximate(known: Known) -> Rule:
    return DefaultWeights(known, Approximate(known))


def precise(known: Known) -> Rule:
    return DefaultWeights(known, Precise(known))


def exact(known: Known) -> Rule:
    return DefaultWeights(known, Exact(known))


def affinity(known: Known) -> Rule:
    return Affinity(known, Approximate(known))


def test_queues_are_spread_from_one_to_zero() -> None:
    assert spread([4, 0, 1]) == [0.0, 1.0, 0.75]
    assert spread([3, 3]) == [1.0, 1.0]


def test_a_half_match_loses_to_the_shorter_queue_and_a_whole_one_wins() -> None:
    for blocks, best in (((1, 2, 8, 9), 1), ((1, 2, 3, 4), 0)):
        stage = Stage(precise)
        stage.holds(0, 1, 2, 3, 4)
        stage.reports(0, waiting=1)
        stage.reports(1)
        # 3 * 0.5 + 0 + 2 = 3.5 against 0 + 2 + 2 = 4; 3 + 0 + 2 = 5 against 4.
        assert stage.send(*blocks) == best


def test_kv_use_counts_two() -> None:
    stage = Stage(precise)
    stage.holds(0, 1, 2)
    stage.reports(0, kv=0.74)  # 3 * 0.5 - 2 * 0.74 > 0
    stage.reports(1)
    assert stage.send(1, 2, 3, 4) == 0
    stage.reports(0, kv=0.76)
    stage.now_s = 10.0  # the entries of the first dispatch have expired
    assert stage.send(1, 2, 3, 4) == 1


def test_cold_prompts_go_around_by_when_the_last_one_came() -> None:
    stage = Stage(approximate, 4)
    turns = [stage.send(10 * number) for number in range(1, 9)]
    assert set(turns[:4]) == {0, 1, 2, 3}
    assert turns[4:] == turns[:4]


def test_endpoints_that_never_reported_count_as_idle() -> None:
    stage = Stage(precise)
    stage.holds(1, 1)
    stage.reports(1, waiting=1)
    assert stage.send(1) == 1  # 3 + 0 + 2 against 0 + 2 + 2
    stage.reports(1, waiting=1, kv=0.6)
    assert stage.send(1, 8) == 0  # 1.5 + 0 + 0.8 against 0 + 2 + 2


def test_what_was_sent_is_remembered_up_to_the_size_of_the_cache() -> None:
    stage = Stage(approximate, kv_tokens=256)  # four blocks
    owner = stage.send(1, 2, 3)
    other = stage.send(50, 51)
    assert other != owner  # cold
    assert stage.send(1, 2, 3) == owner
    stage.send(61, 62, 63, 64)
    stage.send(71, 72, 73, 74)
    rule = stage.rival._rule
    assert isinstance(rule, DefaultWeights)
    assert isinstance(rule._prefixes, Approximate)
    assert rule._prefixes._sent.depths((1, 2, 3)) == [0, 0]


def test_a_dispatch_counts_as_cached_for_two_seconds() -> None:
    stage = Stage(precise)
    first = stage.send(1, 2)
    assert stage.send(1, 2) == first
    stage.now_s = 5.0
    assert stage.send(1, 2) != first  # cold again: the other's turn


def test_the_oracle_needs_no_reports() -> None:
    stage = Stage(exact, oracle=True)
    stage.holds(0, 1, 2)
    assert stage.send(1, 2, 3) == 0
    stage.reports(0, waiting=1, kv=0.9)
    assert stage.send(50) == 1


def test_four_fifths_of_a_prompt_make_an_endpoint_sticky() -> None:
    stage = Stage(affinity)
    owner = stage.send(1, 2, 3, 4)
    assert stage.send(1, 2, 3, 4, 5) == owner  # 0.8, though 256 tokens are in flight there
    # 2 of 3: any; there 256 + 64 + 64 in flight and missing, elsewhere 192.
    assert stage.send(1, 2, 9) != owner


@pytest.mark.parametrize(("tokens", "stays"), [(286_704 + 64, True), (286_705 + 64, False)])
def test_sticky_endpoints_that_are_18_s_behind_lose_their_privilege(
    tokens: int, stays: bool
) -> None:
    stage = Stage(affinity)
    owner = stage.send(1, 2, 3, 4, tokens=tokens)
    assert stage.send(50) != owner
    assert (stage.send(1, 2, 3, 4) == owner) is stays


def test_tokens_leave_the_load_at_the_first_token() -> None:
    stage = Stage(affinity)
    one, owner = stage.place(1, tokens=1_000)
    assert stage.send(50) != owner
    stage.first_token(one)
    assert stage.send(60) == owner
