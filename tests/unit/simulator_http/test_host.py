"""The stepping task, under a clock that is late by a known amount."""

from __future__ import annotations

import asyncio

import pytest

from headrace.core.ids import RequestId
from headrace.simulator.engine import SimEngine
from headrace.simulator.http.errors import ApiError
from headrace.simulator.http.generation import Ending, Generation, Prompt
from headrace.simulator.http.host import Host, Pace
from headrace.simulator.http.text import Generated, encode
from headrace.simulator.presets import engine_spec
from headrace.simulator.requests import EngineRequest
from kvcache.hashing import BASE, BlockHasher


class LateClock:
    """Sleeps ``late_s`` longer than asked; time passes only while somebody sleeps."""

    def __init__(self, late_s: float) -> None:
        self.time_s = 0.0
        self.late_s = late_s

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(0)
        if delay_s > 0.0:
            self.time_s += delay_s + self.late_s


SPEC = engine_spec("H100", "Llama-3.1-8B")
HASHER = BlockHasher(16)


def generation(number: int, output_tokens: int) -> Generation:
    prompt = Prompt.of(encode(b"word" * 40), BASE, HASHER)
    text = Generated.after(prompt.ids, 0, number).text(output_tokens)
    made = Generation(prompt, text, Ending(output_tokens, len(text), "length"), HASHER)
    made.describe(str(number))
    return made


def ideal_s(output_tokens: int) -> float:
    """How long the engine core says one request takes, alone."""
    engine, now_s = SimEngine(SPEC), 0.0
    engine.add(EngineRequest(RequestId("a"), 40, output_tokens), now_s)
    while (duration_s := engine.begin_step(now_s)) is not None:
        now_s += duration_s
        engine.end_step(now_s)
    return now_s


async def run_until_done(host: Host, made: list[Generation]) -> None:
    left = len(made)
    done = asyncio.Event()

    def end(_cached_tokens: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()

    for one in made:
        one.end = end
    stepping = asyncio.create_task(host.run())
    host.submit(made)
    async with asyncio.timeout(10):
        await done.wait()
    stepping.cancel()
    await asyncio.wait([stepping])


@pytest.mark.parametrize("scale", [1.0, 10.0])
async def test_late_timers_do_not_add_up(scale: float) -> None:
    clock = LateClock(0.0004)
    host = Host(SPEC, clock, Pace(time_scale=scale))
    await run_until_done(host, [generation(1, 500)])
    assert clock.time_s == pytest.approx(ideal_s(500) / scale, abs=0.001)
    assert host.lateness_s == 0.0


async def test_an_engine_far_behind_moves_its_schedule_and_says_by_how_much() -> None:
    clock = LateClock(0.3)
    host = Host(SPEC, clock, Pace(max_lag_s=0.1))
    await run_until_done(host, [generation(1, 20)])
    assert host.lateness_s > 0.5
    assert host.facts().lateness_s == host.lateness_s


async def test_a_slow_engine_takes_as_many_times_longer() -> None:
    clock = LateClock(0.0)
    host = Host(SPEC, clock, Pace())
    host.faults.slow_factor = 7.0
    await run_until_done(host, [generation(1, 20)])
    assert clock.time_s == pytest.approx(7 * ideal_s(20))


async def test_latencies_are_counted_as_they_were() -> None:
    clock = LateClock(0.0)
    host = Host(SPEC, clock, Pace())
    await run_until_done(host, [generation(1, 30), generation(2, 30)])
    stats = host.stats
    assert sum(stats.ttft_s.counts) == sum(stats.e2e_s.counts) == 2
    assert sum(stats.itl_s.counts) == 2 * 29
    assert stats.e2e_s.total == pytest.approx(stats.ttft_s.total + stats.itl_s.total)
    assert stats.output_tokens == 60
    assert stats.ended["length"] == 2


async def test_what_is_refused_leaves_nothing_behind() -> None:
    host = Host(SPEC, LateClock(0.0), Pace(max_queued=1))
    with pytest.raises(ApiError, match="currently busy"):
        host.submit([generation(1, 5), generation(2, 5)])
    assert host.queued == 0
    host.engine.check()
