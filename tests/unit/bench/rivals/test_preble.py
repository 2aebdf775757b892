from __future__ import annotations

import random

import pytest

from bench.rivals.preble import DECODE_S, Preble, prefill_s
from bench.rivals.radix import Node
from tests.unit.bench.rivals.stage import Stage


@pytest.mark.parametrize(
    ("tokens", "context_tokens", "ms"),
    [
        (64, 64, 55.0 + 0.80),
        (256, 256, -295 + 800 - 419.4304 + 0.80),
        (512, 512, 138.78491136 + 10.52444263 + 0.80),
        (512, 2_048, 138.78491136 + 10.52444263 + (0.95232 + 0.398) / 2),
        (2_048, 2_048, 555.13964544 + 10.52444263 + 0.95232 + 0.398),
        (4_096, 4_096, 1110.27929088 + 10.52444263 + 2.30264 - 18.425 + 39.5264 + 90.59696640),
    ],
)
def test_prefill_is_the_v100_fit(tokens: int, context_tokens: int, ms: float) -> None:
    assert prefill_s(tokens, context_tokens) == pytest.approx(ms / 1_000 / 0.9)


def preble(stage: Stage) -> Preble:
    rule = stage.rival._rule
    assert isinstance(rule, Preble)
    return rule


def test_more_than_half_known_follows_and_half_does_not() -> None:
    stage = Stage(Preble, 2)
    owner = stage.send(1, 2, 3, 4)
    assert stage.send(1, 2, 3, 9) == owner
    assert stage.send(1, 2, 30, 31) != owner  # half: the other one has cost nothing yet


def test_the_cost_of_an_endpoint_is_that_of_the_prompts_that_ended_there() -> None:
    stage = Stage(Preble, 2)
    owner = stage.send(*range(10, 18))  # 512 tokens
    costs_s = preble(stage)._costs_s
    assert costs_s[owner] == pytest.approx(prefill_s(512, 512) + DECODE_S)
    assert costs_s[1 - owner] == 0.0
    # The same again: two prompts, of which the tree still takes all for missed, one decode.
    assert stage.send(*range(10, 18)) == owner
    assert costs_s[owner] == pytest.approx(2 * prefill_s(512, 512) + DECODE_S)


def test_of_several_that_match_the_one_with_fewer_prompts_is_taken() -> None:
    stage = Stage(Preble, 2)
    owner = stage.send(1, 2, 3)
    stage.send(1, 2, 3)
    other = stage.send(1, 20, 21, 22)  # a third known: by cost
    assert other != owner
    assert stage.send(1) == other  # both were sent it; two prompts against one


def test_a_prompt_of_three_minutes_ago_costs_nothing() -> None:
    stage = Stage(Preble, 2)
    stage.send(1, 2)
    stage.send(1, 2)
    stage.now_s = 181.0
    stage.send(tokens=5)
    assert preble(stage)._loads.count(0) == 1
    assert sum(preble(stage)._loads) == 1


def test_the_tree_forgets_after_five_minutes() -> None:
    stage = Stage(Preble, 2)
    stage.send(1, 2, 3)
    stage.now_s = 299.0
    owner = stage.send(7, 8)
    stage.now_s = 301.0
    stage.send(50)
    tree = preble(stage)._tree
    assert set(tree.root.children) == {7, 50}
    assert stage.send(7, 8) == owner


def nodes(node: Node) -> list[Node]:
    return [node, *(below for child in node.children.values() for below in nodes(child))]


@pytest.mark.parametrize("seed", range(5))
def test_sums_kept_along_the_way_are_those_of_the_whole_tree(seed: int) -> None:
    rng = random.Random(seed)
    stage = Stage(Preble, 3, seed=seed)
    rule = preble(stage)
    for _ in range(300):
        path, blocks = 1, []
        for _ in range(rng.randint(0, 6)):
            path = path * 3 + rng.randrange(2)
            blocks.append(path)
        stage.now_s += rng.expovariate(0.1)
        stage.send(*blocks, tokens=64 * len(blocks) + 5)
        costs_s, loads = [0.0] * 3, [0] * 3
        for node in nodes(rule._tree.root):
            assert node.end == node.start + node.length
            for index in range(3):
                if node.count and node.holders >> index & 1:
                    loads[index] += node.count
                    costs_s[index] += rule._cost_s(node)
        assert rule._loads == loads
        assert rule._costs_s == pytest.approx(costs_s)
