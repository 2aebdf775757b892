from __future__ import annotations

from functools import partial

from bench.rivals.smg import SGLANG, SMG, CacheAware, LeastLoad
from tests.unit.bench.rivals.stage import Stage

sglang = partial(CacheAware, config=SGLANG)
smg = partial(CacheAware, config=SMG)


def test_load_is_time_to_drain_plus_a_barrier_before_a_full_cache() -> None:
    stage = Stage(LeastLoad, detailed=True)
    stage.reports(0, kv=0.5, pending=2_000)  # 1 s + 0.15 s * 1
    stage.reports(1, kv=0.9)  # 0.15 s * 9
    assert stage.send(1, tokens=401) == 0  # 1.15 < 1.35; then 1.3505
    assert stage.send(1, tokens=10) == 1


def test_what_was_sent_since_the_poll_counts_in_full_and_is_forgotten_at_the_next() -> None:
    stage = Stage(LeastLoad, detailed=True)
    stage.reports(0)
    stage.reports(1, pending=1_000)
    request_id, _ = stage.place(1, tokens=1_200)
    assert stage.send(1, tokens=10) == 1
    stage.first_token(request_id)  # not heard of before the poll
    assert stage.send(1, tokens=10) == 1
    stage.reports(0)
    assert stage.send(1, tokens=10) == 0


def test_a_full_cache_is_a_barrier_and_not_a_division_by_zero() -> None:
    stage = Stage(LeastLoad, detailed=True)
    stage.reports(0, kv=1.0)  # 149.85 s
    stage.reports(1, pending=200_000)  # 100 s
    assert stage.send(1) == 1


def test_workers_that_never_reported_are_compared_by_requests() -> None:
    stage = Stage(LeastLoad, 3, detailed=True)
    assert [stage.send(1) for _ in range(4)] == [0, 1, 2, 0]


def test_a_prompt_follows_its_match_if_more_than_half_of_it_matches() -> None:
    stage = Stage(sglang)
    assert stage.send(1, 2, 3, 4) == 0  # equal trees: the first
    assert stage.send(1, 2, 3, 9) == 0  # 3 of 4
    assert stage.send(1, 2, 8, 9) == 1  # 2 of 4 are not more than half: the smaller tree
    assert stage.send(1, 2, 3, 4, 5) == 0


def test_in_smg_a_third_is_enough_and_a_miss_goes_to_the_least_loaded() -> None:
    stage = Stage(smg)
    request_id, index = stage.place(1, 2, 3, 4)
    assert index == 0
    assert stage.send(1, 2, 8, 9) == 0
    assert stage.send(1, 5, 6, 7) == 1  # 1 of 4 is a miss, and 0 has two requests
    stage.end(request_id)
    assert stage.send(30) == 0  # equal loads: always worker 0


def test_a_match_counts_for_who_was_sent_it_last() -> None:
    stage = Stage(smg, 3)
    assert stage.send(1, 2, 3, 4) == 0
    assert stage.send(1, 5, 6, 7) == 1
    assert stage.send(1) == 1


def test_unequal_loads_send_anything_to_the_least_loaded() -> None:
    stage = Stage(sglang)
    assert stage.spread(33, 1, 2) == {0: 33}  # up to 32 requests of spread are equal
    assert stage.send(1, 2) == 1
    stage = Stage(smg)
    assert stage.spread(65, 1, 2) == {0: 65}
    assert stage.send(1, 2) == 1


def test_a_prompt_without_blocks_matches_nothing() -> None:
    stage = Stage(smg)
    assert stage.send(tokens=20) == 0
    assert stage.send(tokens=20) == 1


def test_the_oracle_takes_the_lightest_of_those_that_really_hold_the_most() -> None:
    stage = Stage(sglang, 3, oracle=True)
    stage.holds(1, 1, 2, 3)
    stage.holds(2, 1, 2, 3)
    stage.reports(1, running=2)
    assert stage.send(1, 2, 3, 4) == 2
