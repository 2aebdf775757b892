from __future__ import annotations

import random
from collections import OrderedDict

import pytest

from bench.rivals.prefixes import KvIndex, PooledPrefixes, SentPrefixes, depths, shared
from headrace.twin.placement import BlocksChanged


def prompt(rng: random.Random, length: int = 12) -> tuple[int, ...]:
    """A random path down a small tree; a block's number names the whole path to it."""
    path, blocks = 1, []
    for _ in range(rng.randint(0, length)):
        path = path * 3 + rng.randrange(2)
        blocks.append(path)
    return tuple(blocks)


def leading(held: set[int], blocks: tuple[int, ...]) -> int:
    return next((at for at, block in enumerate(blocks) if block not in held), len(blocks))


@pytest.mark.parametrize("seed", range(5))
def test_bisection_finds_what_walking_finds(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        one, other = prompt(rng), prompt(rng)
        walked = leading(set(other), one)
        for floor in range(walked + 1):
            assert shared(one, other, floor) == walked
        assert shared(one, other, walked + 1) == walked + 1


def test_no_blocks_are_nowhere() -> None:
    assert depths({1: 3}, (), 2) == [0, 0]
    assert shared((), (1, 2)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_what_was_sent_is_an_lru_per_endpoint(seed: int) -> None:
    rng = random.Random(seed)
    limits = (30, 60, 15)
    sent = SentPrefixes(limits)
    naive: list[OrderedDict[int, None]] = [OrderedDict() for _ in limits]
    for _ in range(400):
        blocks, index = prompt(rng), rng.randrange(3)
        assert sent.depths(blocks) == [leading(set(held), blocks) for held in naive]
        sent.sent(index, blocks)
        for block in reversed(blocks):
            naive[index].pop(block, None)
            naive[index][block] = None
        while len(naive[index]) > limits[index]:
            naive[index].popitem(last=False)
        assert [sent.blocks(i) for i in range(3)] == [len(held) for held in naive]
        if blocks:
            assert sent.latest(blocks[0]) == index


def test_the_last_sender_that_forgot_a_block_is_not_named() -> None:
    sent = SentPrefixes((2, 10))
    sent.sent(1, (1, 2))
    sent.sent(0, (1, 2))
    assert sent.latest(2) == 0
    sent.sent(0, (5, 6))
    assert sent.depths((1, 2)) == [0, 2]
    assert sent.latest(2) is None
    assert sent.latest(99) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_pooled_index_forgets_by_age_and_by_number_for_everybody(seed: int) -> None:
    rng = random.Random(seed)
    pooled = PooledPrefixes(3, limit_blocks=40, ttl_s=30.0)
    naive: OrderedDict[int, tuple[set[int], float]] = OrderedDict()
    for step in range(400):
        now_s = float(step)
        blocks, index = prompt(rng), rng.randrange(3)
        for block in [b for b, (_, used_s) in naive.items() if used_s <= now_s - 30.0]:
            del naive[block]
        held = [{b for b, (who, _) in naive.items() if i in who} for i in range(3)]
        assert pooled.depths(blocks, now_s) == [leading(one, blocks) for one in held]
        pooled.sent(index, blocks, now_s)
        for block in reversed(blocks):
            who, _ = naive.pop(block, (set(), 0.0))
            naive[block] = (who | {index}, now_s)
        while len(naive) > 40:
            naive.popitem(last=False)


def test_kv_events_say_what_each_engine_holds() -> None:
    index = KvIndex(2)
    index.changed(0, BlocksChanged(stored=(1, 2, 3)))
    index.changed(1, BlocksChanged(stored=(1, 2)))
    assert index.depths((1, 2, 3, 4)) == [3, 2]
    index.changed(0, BlocksChanged(removed=(3, 2, 77), stored=(9,)))
    assert index.depths((1, 2, 3, 4)) == [1, 2]
    index.changed(1, BlocksChanged(cleared=True, stored=(9,)))
    assert index.depths((1, 2, 3, 4)) == [1, 0]
    assert index.depths((9,)) == [1, 1]
