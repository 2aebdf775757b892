"""Runs one engine core in real time: one task that steps it and hands out tokens.

Touches the clock. Nobody else calls the core.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from dataclasses import dataclass
from random import Random
from typing import Final

from headrace.core.clock import Clock
from headrace.core.ids import RequestId
from headrace.simulator.engine import SimEngine
from headrace.simulator.http.errors import engine_busy
from headrace.simulator.http.events import EventFeed
from headrace.simulator.http.faults import Faults
from headrace.simulator.http.generation import Generation
from headrace.simulator.http.metrics import EngineFacts, Stats
from headrace.simulator.requests import Finished, StepResult
from headrace.simulator.spec import EngineSpec

IDLE_CHECK_S: Final = 60.0
"""An idle engine checks its invariants this often."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How an engine core is driven.

    Attributes:
        time_scale: Engine seconds per wall second.
        max_lag_s: Wall seconds behind schedule beyond which the schedule moves instead.
        max_queued: Requests in the engine beyond which more are refused.
        seed: Of what is left to chance: faults with a rate.

    """

    time_scale: float = 1.0
    max_lag_s: float = 1.0
    max_queued: int = 4096
    seed: int = 0


class Host:
    """One life of one engine: a crash ends it, a restart makes another.

    Args:
        spec: The engine.
        clock: Wall seconds.
        pace: How fast it goes, and how far.
        feed: Where block events go, or None.

    Attributes:
        faults: What is wrong with it; written by the admin route.
        stats: What ``/metrics`` shows.
        lateness_s: Wall seconds by which the schedule was moved.

    """

    def __init__(
        self, spec: EngineSpec, clock: Clock, pace: Pace, feed: EventFeed | None = None
    ) -> None:
        self.engine = SimEngine(spec)
        self.faults = Faults()
        self.stats = Stats(spec.context_tokens)
        self.rng = Random(pace.seed)
        self.lateness_s = 0.0
        self._clock = clock
        self._origin_s = clock.now_s()
        self._scale = pace.time_scale
        self._max_lag_s = pace.max_lag_s
        self._max_queued = pace.max_queued
        self._feed = feed
        self._live: dict[RequestId, Generation] = {}
        self._work = asyncio.Event()
        self._due_s = self._origin_s
        self._facts = EngineFacts()
        self._computed_tokens = 0

    @property
    def queued(self) -> int:
        """Requests in the engine, running or waiting."""
        return len(self._live)

    def now_s(self) -> float:
        """Return wall seconds."""
        return self._clock.now_s()

    def submit(self, generations: list[Generation]) -> None:
        """Queue the sequences of one request, all or none.

        Raises:
            ApiError: 503 when the engine holds too many.
            InvalidRequest: the core takes none of that kind.

        """
        if len(self._live) + len(generations) > self._max_queued:
            self.stats.refused["max_num_queued_reqs"] += 1
            raise engine_busy()
        now_s = self._clock.now_s()
        for generation in generations:
            request = generation.request
            self.engine.add(request, self._engine_s(now_s))
            generation.arrived_s = now_s
            self._live[request.request_id] = generation
        self._work.set()

    def abort(self, generations: list[Generation]) -> None:
        """Drop what is left of one request, whose client is gone."""
        for generation in generations:
            if self._live.pop(generation.request.request_id, None) is not None:
                self.engine.abort(generation.request.request_id)
                self.stats.ended["abort"] += 1

    def wake(self) -> None:
        """Look again whether there is something to run; call after a fault ends."""
        self._work.set()

    def facts(self) -> EngineFacts:
        """Return the engine's figures as of its last step."""
        return self._facts

    async def run(self) -> None:
        """Step the engine until cancelled.

        Steps follow one absolute schedule: each is due when the one before it was due plus its
        duration, so that timer resolution and busy moments do not add up.
        """
        engine, clock = self.engine, self._clock
        self._note()
        while True:
            if self.faults.hung:
                await self._wait_for_work(IDLE_CHECK_S)
                self._due_s = clock.now_s()
                continue
            duration_s = engine.begin_step(self._engine_s(self._due_s))
            if self._feed is not None:
                self._feed.collect(engine.drain_events(), self._live)
            if duration_s is None:
                await self._idle()
                continue
            due_s = self._due_s + duration_s * self.faults.slow_factor / self._scale
            await self._sleep_until(due_s)
            while self.faults.hung:  # nothing comes of the step until the engine moves again
                await self._wait_for_work(IDLE_CHECK_S)
                self._due_s = clock.now_s()
            self._end_step(engine.end_step(self._engine_s(self._due_s)))

    def _engine_s(self, wall_s: float) -> float:
        return (wall_s - self._origin_s) * self._scale

    async def _sleep_until(self, due_s: float) -> None:
        """Wait until ``due_s``; behind schedule, only let others run, or move the schedule."""
        delay_s = due_s - self._clock.now_s()
        if -delay_s > self._max_lag_s:
            self.lateness_s -= delay_s
            due_s -= delay_s
        self._due_s = due_s
        await self._clock.sleep(max(0.0, delay_s))

    async def _idle(self) -> None:
        """Wait for work, or for a transfer under way to arrive; then start a fresh schedule."""
        self._note()
        wake_s = self.engine.wake_s
        if wake_s is None:
            if not await self._wait_for_work(IDLE_CHECK_S):
                self.engine.check()
        else:
            wait_s = self._origin_s + wake_s / self._scale - self._clock.now_s()
            await self._wait_for_work(max(0.0, wait_s))
        self._due_s = self._clock.now_s()

    async def _wait_for_work(self, limit_s: float) -> bool:
        """Wait for ``wake`` or ``submit``; False when ``limit_s`` passed without."""
        try:
            async with asyncio.timeout(limit_s):
                await self._work.wait()
        except TimeoutError:
            return False
        finally:
            self._work.clear()
        return True

    def _end_step(self, result: StepResult) -> None:
        """Hand out the tokens of a step, its events first: vLLM publishes before it answers."""
        if self._feed is not None:
            self._feed.collect(self.engine.drain_events(), self._live)
            self._feed.publish(self.faults, self.rng)
        now_s = self._clock.now_s()
        computed_tokens = self.engine.counters.computed_tokens
        self.stats.step_tokens.observe(computed_tokens - self._computed_tokens)
        self._computed_tokens = computed_tokens
        self.stats.output_tokens += len(result.emitted)
        for request_id in result.first:
            generation = self._live.get(request_id)
            if generation is not None:
                generation.first_s = generation.last_s = now_s
                self.stats.ttft_s.observe(now_s - generation.arrived_s)
        self._note()
        self._emit(result, now_s)
        for finished in result.finished:
            generation = self._live.pop(finished.request_id, None)
            if generation is not None:
                self._count(generation, finished, now_s)
                generation.end(finished.cached_tokens)

    def _emit(self, result: StepResult, now_s: float) -> None:
        """Give every sequence that goes on its token; equal gaps are counted together."""
        live, itl = self._live, self.stats.itl_s
        ended = {finished.request_id for finished in result.finished}
        counts, bounds = itl.counts, itl.bounds
        last_gap_s, bucket = -1.0, 0
        for request_id in result.emitted:
            generation = live.get(request_id)
            if generation is None:
                continue
            gap_s = now_s - generation.last_s
            generation.last_s = now_s
            if gap_s > 0.0:
                if gap_s != last_gap_s:
                    last_gap_s, bucket = gap_s, bisect_left(bounds, gap_s)
                counts[bucket] += 1
                itl.total += gap_s
            if request_id not in ended:
                generation.emit()

    def _count(self, generation: Generation, finished: Finished, now_s: float) -> None:
        stats = self.stats
        e2e_s = now_s - generation.arrived_s
        stats.e2e_s.observe(e2e_s)
        stats.prefill_s.observe(generation.first_s - generation.arrived_s)
        stats.decode_s.observe(now_s - generation.first_s)
        if finished.output_tokens > 1:
            stats.tpot_s.observe((now_s - generation.first_s) / (finished.output_tokens - 1))
        stats.prompt_length.observe(finished.prompt_tokens)
        stats.output_length.observe(finished.output_tokens)
        stats.asked_length.observe(generation.max_tokens)
        stats.prompt_tokens += finished.prompt_tokens
        stats.cached_tokens += finished.cached_tokens
        stats.transferred_tokens += generation.request.kv_transfer_tokens
        stats.ended[generation.ending.finish_reason] += 1

    def _note(self) -> None:
        """Take the figures that ``/metrics`` shows until the next step has ended."""
        engine = self.engine
        counters = engine.counters
        self._facts = EngineFacts(
            running=engine.running,
            waiting=engine.waiting,
            kv_used_ratio=engine.kv_used_ratio,
            preemptions=counters.preemptions,
            prefix_query_tokens=counters.prefix_query_tokens,
            prefix_hit_tokens=counters.prefix_hit_tokens,
            max_loras=engine.spec.max_loras,
            lateness_s=self.lateness_s,
        )
