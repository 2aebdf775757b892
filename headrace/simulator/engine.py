"""A simulated vLLM engine, step by step. Pure: time is an argument.

The caller drives it: ``begin_step`` says how long the next step takes, ``end_step`` applies it.
Both shells use it so: the HTTP server sleeps in between, virtual time moves the clock. In virtual
time ``begin_step(now_s, max_steps)`` may take many decode steps at once (a stretch), with the
same outcome as one by one; ``shorten`` cuts a stretch when something happens before its end.
"""

from __future__ import annotations

import math

from headrace.core.endpoint import EngineLoad
from headrace.core.errors import InvalidRequest
from headrace.core.ids import RequestId
from headrace.simulator.requests import (
    BlockEvent,
    BlockKey,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    EngineCounters,
    EngineRequest,
    Finished,
    StepResult,
)
from headrace.simulator.scheduler import Plan, Scheduler
from headrace.simulator.sequence import Sequence
from headrace.simulator.spec import EngineSpec
from headrace.simulator.steptime import BatchShape, StepTime

__all__ = [
    "BlockEvent",
    "BlockKey",
    "BlocksCleared",
    "BlocksRemoved",
    "BlocksStored",
    "EngineCounters",
    "EngineRequest",
    "Finished",
    "SimEngine",
    "StepResult",
]


class SimEngine:
    """One engine's whole state. ``seed`` is reserved for shells that add noise; the core has none.

    ``counters`` and the read-only properties are what ``/metrics`` shows.
    """

    def __init__(self, spec: EngineSpec, seed: int = 0, step_time: StepTime | None = None) -> None:
        self.spec = spec
        self.seed = seed
        self.counters = EngineCounters()
        self._step_time = step_time or StepTime(spec)
        self._scheduler = Scheduler(spec, self.counters)
        self._sequences: dict[RequestId, Sequence] = {}
        self._inbox: list[Sequence] = []
        self._number = 0
        self._plan: Plan | None = None
        self._begun_s = 0.0
        self._first_s = 0.0
        self._growth_s = 0.0
        self._steps = 1
        self._wake_s: float | None = None

    # What a caller may look at.

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Requests queued in the engine."""
        return len(self._scheduler.waiting) + len(self._inbox)

    @property
    def kv_used_ratio(self) -> float:
        """Share of KV blocks that requests hold, 0 to 1; as of the last ``begin_step``."""
        return self._scheduler.pool.in_use / self._scheduler.pool.blocks

    @property
    def stepping(self) -> bool:
        """Whether a step is under way."""
        return self._plan is not None

    @property
    def wake_s(self) -> float | None:
        """When to call ``begin_step`` again after it returned None; None: when work arrives."""
        return self._wake_s

    @property
    def pending_prefill_tokens(self) -> int:
        """Prompt tokens not computed yet: a look at every request, for comparisons only."""
        scheduler = self._scheduler
        left = [s.total - s.computed for s in scheduler.running]
        pending = sum(tokens for tokens in left if tokens > 1)  # one is a decode step's
        if self._plan is not None:  # what a step computes counts as computed from its beginning
            pending += sum(s.chunk for s in self._plan.batch if s.chunk > 1)
        for sequence in (*scheduler.waiting, *self._inbox):
            hit = scheduler.pool.leading(sequence.request.block_keys) * self.spec.block_size
            pending += max(1, sequence.total - hit)
        return pending

    @property
    def resident_tokens(self) -> int:
        """Tokens of the sequences in the batch."""
        return sum(s.total for s in self._scheduler.running)

    def load(self, now_s: float) -> EngineLoad:
        """Return what the engine would report now."""
        return EngineLoad(self.running, self.waiting, self.kv_used_ratio, now_s)

    def adapters(self) -> tuple[list[str], list[str]]:
        """Return the adapters of running and of waiting requests, each sorted, without repeats."""
        running = {s.request.adapter for s in self._scheduler.running}
        waiting = {s.request.adapter for s in [*self._scheduler.waiting, *self._inbox]}
        return sorted(filter(None, running)), sorted(filter(None, waiting))

    # Requests in and out.

    def add(self, request: EngineRequest, now_s: float) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: it could never run here, or its id is in use.

        """
        self._validate(request)
        sequence = Sequence(request, self._number, now_s)
        self._number += 1
        self._sequences[request.request_id] = sequence
        self.counters.requests_added += 1
        self._wake_s = None
        if self._plan is not None and self.spec.async_scheduling:
            self._inbox.append(sequence)  # the step after this one is planned already
        else:
            self._scheduler.waiting.push(sequence)

    def abort(self, request_id: RequestId) -> bool:
        """Drop a request and free its blocks at once; False when it is not here (any more).

        The step under way goes on without it; a caller that is in a stretch shortens it first.
        """
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        self.counters.requests_aborted += 1
        scheduler = self._scheduler
        if sequence in scheduler.running:
            scheduler.running.remove(sequence)
            if self._plan is not None and sequence in self._plan.batch:
                self._plan.batch.remove(sequence)
        elif sequence in self._inbox:
            self._inbox.remove(sequence)
        else:
            scheduler.waiting.remove(sequence)
        scheduler.release(sequence)
        return True

    def clear_prefix_cache(self) -> bool:
        """Forget all reusable blocks; refused (False) while a request holds any, as in vLLM."""
        cleared = self._scheduler.pool.clear()
        if cleared and self.spec.record_events:
            self._scheduler.note(BlocksCleared())
        return cleared

    def drain_events(self) -> list[BlockEvent]:
        """Return block events since the last call, in order; empty unless the spec records them."""
        return self._scheduler.take_events()

    # Steps.

    def begin_step(self, now_s: float, max_steps: int = 1) -> float | None:
        """Schedule a step, or up to ``max_steps`` decode steps in which nothing else can happen.

        Returns:
            Its duration in seconds; None when there is nothing to run (see ``wake_s``).

        """
        assert self._plan is None, "the step before has not ended"
        scheduler = self._scheduler
        plan = scheduler.plan(now_s)
        while not plan.batch and (plan.preempted or self._inbox or scheduler.leaving):
            self._take_lagging()  # nobody else is left to run, or the last one preempted itself
            plan = scheduler.plan(now_s)
        self._wake_s = plan.wake_s
        if not plan.batch:
            return None
        shape = self._shape(plan)
        self._begun_s = now_s
        cost = self._step_time.cost(shape)
        self._first_s = cost.seconds + plan.adapter_loads * self.spec.lora_load_s
        self._growth_s = cost.growth_s
        self._steps = 1
        if max_steps > 1 and self._steady(plan, shape):
            self._steps = self._stretch_steps(plan, min(max_steps, cost.steps))
        self._take_lagging()
        self._plan = plan
        return self._duration_s(self._steps)

    def shorten(self, now_s: float) -> float:
        """Cut a stretch at the first step end at or after ``now_s``; a single step is left alone.

        Returns:
            The duration of what is left, from its beginning.

        """
        assert self._plan is not None, "no step is under way"
        elapsed_s = now_s - self._begun_s
        if self._steps > 1 and self._duration_s(self._steps) > elapsed_s:
            self._steps = self._steps_within(elapsed_s)
        return self._duration_s(self._steps)

    def end_step(self, now_s: float) -> StepResult:
        """Apply the step that has just ended."""
        plan = self._plan
        assert plan is not None, "no step is under way"
        self._settle_stretch()
        steps = self._steps
        self._plan = None
        emitted: list[RequestId] = []
        first: list[RequestId] = []
        finished: list[Finished] = []
        for sequence in plan.batch:
            if sequence.computed < sequence.total + steps - 1:
                continue  # a chunk of a longer prompt
            if sequence.total == sequence.request.prompt_tokens:
                first.append(sequence.request.request_id)
            sequence.total += steps
            emitted.append(sequence.request.request_id)
            if sequence.total >= sequence.goal:
                finished.append(self._finish(sequence))
        counters = self.counters
        counters.steps += steps
        counters.output_tokens += steps * len(emitted)
        counters.computed_tokens += sum(s.chunk for s in plan.batch) + (steps - 1) * len(emitted)
        counters.busy_s += now_s - self._begun_s
        if finished:
            self._drop_finished()
        return StepResult(emitted, first, finished, steps)

    # How a stretch works: n decode steps of a batch of b sequences take
    # n * first + growth * n (n - 1) / 2 seconds, because each step reads b tokens of KV more.

    def _duration_s(self, steps: int) -> float:
        return steps * self._first_s + self._growth_s * steps * (steps - 1) / 2

    def _steps_within(self, elapsed_s: float) -> int:
        """Least number of steps, of those under way, that lasts at least ``elapsed_s``."""
        half = self._growth_s / 2
        linear = self._first_s - half
        guess = elapsed_s / linear
        if half > 0.0:
            guess = math.sqrt(linear * linear + 4 * half * max(0.0, elapsed_s)) - linear
            guess /= 2 * half
        steps = min(self._steps, max(1, math.ceil(guess)))
        while steps > 1 and self._duration_s(steps - 1) >= elapsed_s:
            steps -= 1
        while steps < self._steps and self._duration_s(steps) < elapsed_s:
            steps += 1
        return steps

    def _steady(self, plan: Plan, shape: BatchShape) -> bool:
        """Whether the next plan must be this one again, as long as nobody finishes or arrives."""
        if self._inbox or plan.preempted or plan.adapter_loads or plan.budget == 0:
            return False
        if shape.tokens != len(plan.batch) or shape.sampled != len(plan.batch):
            return False
        if any(s.total == s.request.prompt_tokens for s in plan.batch):
            return False  # a first token is news that must not wait for the end of a stretch
        return not (self._scheduler.waiting and (self._scheduler.leaving or plan.admitted))

    def _stretch_steps(self, plan: Plan, max_steps: int) -> int:
        """Steps until a sequence ends, blocks run out, or a fetch arrives."""
        steps = min(max_steps, *(s.goal - s.total for s in plan.batch))
        pool = self._scheduler.pool
        steps = min(steps, max(1, pool.free // len(plan.batch) * self.spec.block_size))
        if plan.wake_s is not None and steps > 1:
            self._steps = steps
            steps = self._steps_within(plan.wake_s - self._begun_s)
        return steps

    def _settle_stretch(self) -> None:
        """Give the sequences of a stretch the blocks of its further steps."""
        plan = self._plan
        if plan is None or self._steps == 1:
            return
        for sequence in plan.batch:
            self._scheduler.grow(sequence, self._steps - 1)

    # Small things.

    def _shape(self, plan: Plan) -> BatchShape:
        shape = BatchShape()
        for sequence in plan.batch:
            shape.add(sequence.computed - sequence.chunk, sequence.chunk)
            if sequence.computed >= sequence.total:
                shape.sampled += 1
        return shape

    def _take_lagging(self) -> None:
        """Let what arrived or ended during the last step count from the next plan on."""
        scheduler = self._scheduler
        for sequence in self._inbox:
            scheduler.waiting.push(sequence)
        self._inbox.clear()
        for sequence in scheduler.leaving:
            scheduler.release(sequence)
        scheduler.leaving.clear()

    def _finish(self, sequence: Sequence) -> Finished:
        request = sequence.request
        del self._sequences[request.request_id]
        self.counters.requests_finished += 1
        self.counters.prompt_tokens += request.prompt_tokens
        self._scheduler.leaving.append(sequence)
        return Finished(
            request.request_id,
            request.prompt_tokens,
            sequence.output_tokens,
            sequence.cached_tokens,
        )

    def _drop_finished(self) -> None:
        scheduler = self._scheduler
        scheduler.running = [s for s in scheduler.running if s.total < s.goal]
        idle = not scheduler.running and not scheduler.waiting and not self._inbox
        if idle or not self.spec.async_scheduling:
            self._take_lagging()

    def _validate(self, request: EngineRequest) -> None:
        spec = self.spec
        if request.request_id in self._sequences:
            raise InvalidRequest(f"request {request.request_id} is already here")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise InvalidRequest("a request needs at least one prompt and one output token")
        if request.prompt_tokens + request.output_tokens > spec.context_tokens:
            raise InvalidRequest(
                f"{request.prompt_tokens} prompt and {request.output_tokens} output tokens are "
                f"more than the {spec.context_tokens} this engine can hold"
            )
        if len(request.block_keys) > request.prompt_tokens // spec.block_size:
            raise InvalidRequest("more block keys than full blocks in the prompt")
        if request.adapter is not None and spec.max_loras < 1:
            raise InvalidRequest("this engine takes no adapters")

    def check(self) -> None:
        """Assert that no request, block or token was lost or made up."""
        scheduler = self._scheduler
        waiting = list(scheduler.waiting) + self._inbox
        here = scheduler.running + waiting
        assert {s.request.request_id for s in here} == set(self._sequences)
        assert len(here) == len(self._sequences), "a request is in two places"
        counters = self.counters
        ended = counters.requests_finished + counters.requests_aborted
        assert counters.requests_added == ended + len(here), "requests not conserved"
        assert len(scheduler.running) + len(scheduler.leaving) <= self.spec.max_num_seqs
        references: dict[BlockKey, int] = {}
        private = 0
        for sequence in [*here, *scheduler.leaving]:
            keyed = [key for key in sequence.keys if key is not None]
            private += sequence.held - len(keyed)
            for key in keyed:
                references[key] = references.get(key, 0) + 1
            assert len(sequence.keys) <= sequence.held
            assert 0 <= sequence.computed <= sequence.held * self.spec.block_size
            assert sequence.total <= sequence.goal
        scheduler.pool.check(references, private)
        assert all(not s.held or s.fetched for s in waiting), "a waiting request holds blocks"
