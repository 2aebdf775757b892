from __future__ import annotations

from bench.rivals.counting import LeastRequests, PowerOfTwo, RoundRobin, Uniform
from tests.unit.bench.rivals.stage import Stage


def test_round_robin_takes_turns() -> None:
    stage = Stage(RoundRobin, 3)
    assert [stage.send(1) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_random_takes_anybody_and_the_same_with_the_same_seed() -> None:
    assert set(Stage(Uniform, 3).spread(50, 1)) == {0, 1, 2}
    one, other = Stage(Uniform, 3, seed=4), Stage(Uniform, 3, seed=4)
    assert [one.send(1) for _ in range(20)] == [other.send(1) for _ in range(20)]


def test_the_one_of_two_with_fewer_requests_is_taken() -> None:
    stage = Stage(PowerOfTwo, 2)
    assert stage.spread(20, 1) == {0: 10, 1: 10}
    assert Stage(PowerOfTwo, 1).send(1) == 0
    counts = Stage(PowerOfTwo, 8).spread(800, 1)
    assert max(counts.values()) - min(counts.values()) < 20


def test_the_fewest_requests_win_and_equals_are_drawn() -> None:
    stage = Stage(LeastRequests, 3)
    placed = [stage.place(1) for _ in range(3)]
    assert {index for _, index in placed} == {0, 1, 2}
    request_id, index = placed[1]
    stage.end(request_id)
    assert stage.send(1) == index
    assert {Stage(LeastRequests, 3, seed=seed).send(1) for seed in range(20)} == {0, 1, 2}
