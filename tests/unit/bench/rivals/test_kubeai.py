from __future__ import annotations

from bench.rivals.kubeai import Chwbl
from tests.unit.bench.rivals.stage import Stage


def test_equal_beginnings_go_to_one_endpoint_until_it_is_a_quarter_above_the_mean() -> None:
    stage = Stage(Chwbl, 2)
    owner = stage.send(7, 1)
    # total 1: the limit is 1.25 * 2 / 2 = 1.25, and one more there would be 2.
    other = 1 - owner
    assert stage.send(7, 2) == other
    # total 2: the limit is 1.875, both would have 2: nobody passes, so the first of the ring.
    assert stage.send(7, 3) == owner
    # total 3 (2 and 1): the limit is 2.5, the owner would have 3.
    assert stage.send(7, 4) == other
    # total 7 (4 and 3) and so on: an endpoint never gets far beyond 1.25 of the mean.
    counts = stage.spread(100, 7)
    assert max(counts.values()) <= 1.25 * 104 / 2 + 1


def test_with_few_requests_nobody_passes_and_the_first_of_the_ring_gets_them() -> None:
    # 8 endpoints: the mean is below one until 1.25 * (total + 1) / 8 reaches 1, at total 6.
    stage = Stage(Chwbl, 8)
    owner = stage.send(7)
    for _ in range(5):
        assert stage.send(7) == owner
    assert stage.send(7) != owner


def test_other_beginnings_spread_and_only_the_first_block_counts() -> None:
    def fresh(*blocks: int) -> int:
        return Stage(Chwbl, 8).send(*blocks)

    assert {fresh(block) for block in range(200)} == set(range(8))
    assert all(fresh(7, more) == fresh(7) for more in range(8, 20))


def test_prompts_without_a_block_are_unlike_each_other() -> None:
    stage = Stage(Chwbl, 8)
    taken = set()
    for _ in range(100):
        request_id, index = stage.place(tokens=10)
        stage.end(request_id)
        taken.add(index)
    assert taken == set(range(8))


def test_the_ring_is_shared_about_equally() -> None:
    rule = Stage(Chwbl, 8).rival._rule
    assert isinstance(rule, Chwbl)
    assert len(rule._owners) == 8 * 256
    gaps = [0] * 8
    for at, point in enumerate(rule._hashes):
        gaps[rule._owners[at]] += (point - rule._hashes[at - 1]) % 2**64
    assert max(gaps) < 1.5 * 2**64 / 8
