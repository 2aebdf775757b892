"""Taking many decode steps at once changes nothing but the number of calls."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.ids import RequestId
from headrace.simulator.engine import EngineRequest, SimEngine
from headrace.simulator.presets import HARDWARE, MODELS
from headrace.simulator.spec import EngineSpec

SPEC = EngineSpec(
    HARDWARE["L4"],
    MODELS["Llama-3.1-8B"],
    block_size=4,
    max_num_seqs=4,
    max_num_batched_tokens=64,
)

Arrival = tuple[float, int, int]  # gap to the one before in seconds, prompt, output


def timeline(
    spec: EngineSpec, arrivals: list[Arrival], max_steps: int
) -> tuple[dict[str, tuple[float, float]], tuple[int, ...]]:
    """First and last token times of every request, and the engine's counters at the end."""
    engine = SimEngine(spec)
    due: list[tuple[float, EngineRequest]] = []
    at_s = 0.0
    for number, (gap_s, prompt, output) in enumerate(arrivals):
        at_s += gap_s
        base = number * 1000
        keys = range(base, base + prompt // 4)
        request = EngineRequest(RequestId(str(number)), prompt, output, keys, base.__add__)
        due.append((at_s, request))
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    now_s = 0.0
    while due or engine.running or engine.waiting:
        while due and due[0][0] <= now_s:
            engine.add(due[0][1], now_s)
            del due[0]
        duration_s = engine.begin_step(now_s, max_steps)
        if duration_s is None:
            now_s = due[0][0]
            continue
        end_s = now_s + duration_s
        while due and due[0][0] < end_s:
            at_s, request = due.pop(0)
            engine.add(request, at_s)
            end_s = now_s + engine.shorten(at_s)
        result = engine.end_step(end_s)
        now_s = end_s
        first.update(dict.fromkeys(result.first, now_s))
        last.update((finished.request_id, now_s) for finished in result.finished)
    engine.check()
    c = engine.counters
    counters = (c.steps, c.preemptions, c.output_tokens, c.computed_tokens, c.prefix_hit_tokens)
    return {name: (first[name], last[name]) for name in last}, counters


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(
            st.one_of(st.just(0.0), st.floats(0.01, 3.0)), st.integers(1, 60), st.integers(1, 60)
        ),
        min_size=1,
        max_size=8,
    ),
    blocks=st.integers(31, 80),
    ahead=st.booleans(),
)
def test_a_stretch_gives_every_token_at_the_time_that_single_steps_would(
    arrivals: list[Arrival], blocks: int, ahead: bool
) -> None:
    spec = replace(SPEC, num_blocks=blocks, async_scheduling=ahead)
    single, single_counters = timeline(spec, arrivals, 1)
    stretched, stretched_counters = timeline(spec, arrivals, 1 << 20)
    assert stretched_counters == single_counters
    assert stretched.keys() == single.keys()
    for name, times in single.items():
        assert stretched[name] == pytest.approx(times, abs=1e-6)
