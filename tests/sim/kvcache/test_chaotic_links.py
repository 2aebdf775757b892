"""Engines whose events are delayed, lost, doubled, reordered, cut off: the index never claims more.

Each seed is a fleet of two engines, with restarts.
"""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from headrace.core.ids import RequestId
from headrace.simulator.requests import EngineRequest
from headrace.simulator.world import World
from kvcache.changes import Tier
from kvcache.stream import StreamState
from tests.support.chaotic_engine import SIZE, Engine, chain
from tests.support.fleet_index import FleetIndex

QUIET_S = 5.0
LAG_S = 2.0


def run(seed: int) -> tuple[FleetIndex, list[Engine]]:
    world = World(seed)
    index = FleetIndex()
    engines = [Engine(world, name, index) for name in ("a", "b")]
    rng = world.rng("load")
    for number in range(60):
        world.at(round(rng.uniform(0.0, QUIET_S) * 1e9), partial(submit, rng, engines, number))
    for _ in range(rng.choice((0, 1, 3))):
        world.at(round(rng.uniform(0.5, QUIET_S) * 1e9), rng.choice(engines).begin)
    world.at(round(rng.uniform(0.5, QUIET_S) * 1e9), engines[0].clear)
    world.run(until_ns=round((QUIET_S + 60.0) * 1e9), limit=200_000)
    for engine in engines:
        engine.calm()
    for wait in range(3):  # the link is quiet; what was lost is asked for, what is late has come
        for engine in engines:
            world.at(round(wait * 0.5 * 1e9), engine.check_up)
    world.run(until_ns=world.now_ns + round(LAG_S * 1e9), limit=200_000)
    return index, engines


def submit(rng: Random, engines: list[Engine], number: int) -> None:
    names = chain(rng)
    tokens = len(names) * SIZE + rng.randint(1, SIZE - 1)
    request = EngineRequest(
        RequestId(str(number)),
        tokens,
        rng.randint(1, 40),
        tuple(names),
        output_keys=lambda index: (number * 1_000 + index + 1) * 0xD1B54A32D192ED03 % 2**64,
    )
    rng.choice(engines).actor.add(request)


@pytest.mark.parametrize("block", range(8))
def test_after_the_lag_no_dropped_block_is_claimed(block: int) -> None:
    complete = partial_ = 0
    for seed in range(block * 30, block * 30 + 30):
        index, engines = run(seed)
        index.check()
        for engine in engines:
            claimed = index.held_by(engine.endpoint)
            assert claimed <= engine.life.held, f"seed {seed} {engine.endpoint}"
            assert engine.stream.state is StreamState.SYNCED, f"seed {seed}"
            counters = engine.stream.counters
            if not counters.resyncs and not counters.failed_replays and counters.replays:
                assert claimed == engine.life.held, f"seed {seed} {engine.endpoint}"
                complete += 1
            else:
                partial_ += 1
    assert complete
    assert partial_


def test_the_index_claims_prefixes_as_the_engine_would_find_them() -> None:
    index, engines = run(3)
    rng = Random(0)
    for _ in range(50):
        names = chain(rng)
        for engine in engines:
            held = index.blocks(engine.endpoint, Tier.GPU)
            assert held <= len(engine.life.held)
            leading = 0
            while leading < len(names) and names[leading] in index.held_by(engine.endpoint):
                leading += 1
            assert leading <= engine.actor.engine._scheduler.pool.leading(names)
