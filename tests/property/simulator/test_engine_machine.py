"""A Hypothesis machine drives an engine through any order of events; its books must balance."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.core.endpoint import Role
from headrace.core.ids import RequestId
from headrace.simulator.engine import (
    BlockKey,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    EngineRequest,
    SimEngine,
)
from headrace.simulator.presets import HARDWARE, MODELS
from headrace.simulator.spec import EngineSpec

BLOCK = 4


def specs() -> st.SearchStrategy[EngineSpec]:
    """Engines so small that everything they own runs out."""
    return st.builds(
        EngineSpec,
        st.just(HARDWARE["L4"]),
        st.just(MODELS["Llama-3.1-8B"]),
        block_size=st.just(BLOCK),
        num_blocks=st.integers(6, 24),
        max_num_seqs=st.integers(1, 5),
        max_num_batched_tokens=st.integers(3, 24),
        async_scheduling=st.booleans(),
        enable_prefix_caching=st.booleans(),
        reserve_full_prompt=st.booleans(),
        scheduling=st.sampled_from(["fcfs", "priority"]),
        max_loras=st.integers(0, 2),
        role=st.just(Role.DECODE),
        kv_transfer_bytes_per_s=st.just(1e8),
        record_events=st.just(True),
    )


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.end_s = 0.0
        self.number = 0
        self.wanted: dict[str, int] = {}
        self.got: dict[str, int] = {}
        self.first: set[str] = set()
        self.cached: set[BlockKey] = set()

    @initialize(spec=specs())
    def build(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.engine = SimEngine(spec)

    @rule(
        prompt=st.integers(1, 40),
        output=st.integers(1, 30),
        family=st.integers(0, 2),
        priority=st.integers(0, 2),
        adapter=st.sampled_from([None, None, "x", "y", "z"]),
        transferred=st.sampled_from([0, 0, 0, 8, 40]),
    )
    def add(
        self,
        prompt: int,
        output: int,
        family: int,
        priority: int,
        adapter: str | None,
        transferred: int,
    ) -> None:
        if prompt + output > self.spec.context_tokens:
            return
        name = f"r{self.number}"
        self.number += 1
        base = family * 1000
        request = EngineRequest(
            RequestId(name),
            prompt,
            output,
            range(base, base + prompt // BLOCK),
            lambda index: base + index,
            priority,
            adapter if self.spec.max_loras else None,
            min(transferred, prompt),
        )
        self.engine.add(request, self.now_s)
        self.wanted[name] = output
        self.got[name] = 0

    @precondition(lambda self: not self.engine.stepping)
    @rule(steps=st.sampled_from([1, 1, 2, 7, 1000]))
    def begin(self, steps: int) -> None:
        duration_s = self.engine.begin_step(self.now_s, steps)
        if duration_s is not None:
            assert duration_s > 0.0
            self.end_s = self.now_s + duration_s
        elif self.engine.wake_s is not None:
            assert self.engine.wake_s > self.now_s
            self.now_s = self.engine.wake_s
        else:
            assert not self.wanted, "nothing to run, but requests are left"

    @precondition(lambda self: self.engine.stepping)
    @rule(part=st.floats(0.0, 1.0))
    def cut(self, part: float) -> None:
        now_s = self.now_s + part * (self.end_s - self.now_s)
        left_s = self.engine.shorten(now_s)
        assert self.now_s + left_s >= now_s - 1e-9
        assert self.now_s + left_s <= self.end_s + 1e-9
        self.end_s = self.now_s + left_s

    @precondition(lambda self: self.engine.stepping)
    @rule()
    def end(self) -> None:
        result = self.engine.end_step(self.end_s)
        self.now_s = self.end_s
        for name in result.first:
            assert name not in self.first, "a second first token"
            self.first.add(name)
        for name in result.emitted:
            self.got[name] += result.steps
        for finished in result.finished:
            assert self.got.pop(finished.request_id) == self.wanted.pop(finished.request_id)
            assert 0 <= finished.cached_tokens < finished.prompt_tokens

    @precondition(lambda self: bool(self.wanted))
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.wanted)))
        assert self.engine.abort(RequestId(name))
        del self.wanted[name], self.got[name]

    @rule()
    def clear(self) -> None:
        self.engine.clear_prefix_cache()

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.engine.check()
        assert len(self.wanted) == self.engine.running + self.engine.waiting

    @invariant()
    def events_describe_the_cache(self) -> None:
        if not hasattr(self, "engine"):
            return
        for event in self.engine.drain_events():
            if isinstance(event, BlocksStored):
                assert self.cached.isdisjoint(event.keys), "stored twice"
                assert event.parent is None or event.first_block > 0
                self.cached.update(event.keys)
            elif isinstance(event, BlocksRemoved):
                assert self.cached.issuperset(event.keys), "removed what was not there"
                self.cached.difference_update(event.keys)
            else:
                assert isinstance(event, BlocksCleared)
                self.cached.clear()

    def teardown(self) -> None:
        """Whatever happened, the engine drains when it is left to run."""
        if not hasattr(self, "engine"):
            return
        for _ in range(20_000):
            if self.engine.stepping:
                self.end()
            elif self.wanted:
                self.begin(1000)
            else:
                break
        assert not self.wanted, "the engine did not drain"
        while self.engine.begin_step(self.now_s) is not None:
            self.end()
        self.engine.check()
        assert self.engine.kv_used_ratio == 0.0


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
