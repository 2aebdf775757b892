from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.endpoint import Role
from headrace.core.errors import InvalidRequest
from headrace.core.ids import RequestId
from headrace.simulator.engine import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    EngineRequest,
    SimEngine,
    StepResult,
)
from headrace.simulator.presets import HARDWARE, MODELS
from headrace.simulator.spec import EngineSpec

SPEC = EngineSpec(
    HARDWARE["L4"],
    MODELS["Llama-3.1-8B"],
    num_blocks=64,
    max_num_seqs=4,
    max_num_batched_tokens=64,
    async_scheduling=False,
)


def request(name: str, prompt: int, output: int = 2, first_key: int | None = None) -> EngineRequest:
    keys = () if first_key is None else range(first_key, first_key + prompt // 16)
    return EngineRequest(RequestId(name), prompt, output, keys)


def step(engine: SimEngine, now_s: float = 0.0) -> StepResult:
    duration_s = engine.begin_step(now_s)
    assert duration_s is not None
    assert duration_s > 0.0
    engine.check()
    result = engine.end_step(now_s + duration_s)
    engine.check()
    return result


def run_all(engine: SimEngine) -> list[StepResult]:
    results = []
    now_s = 0.0
    while (duration_s := engine.begin_step(now_s)) is not None:
        now_s += duration_s
        results.append(engine.end_step(now_s))
        engine.check()
    return results


def test_a_request_gets_one_token_per_step_until_it_ends() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 10, 3), 0.0)
    results = run_all(engine)
    assert [list(result.emitted) for result in results] == [["a"]] * 3
    assert [list(result.first) for result in results] == [["a"], [], []]
    assert results[-1].finished[0].output_tokens == 3
    assert engine.counters.output_tokens == 3
    assert engine.kv_used_ratio == 0.0


def test_a_long_prompt_is_computed_in_chunks_of_the_token_budget() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 150, 1), 0.0)
    results = run_all(engine)
    assert [len(result.emitted) for result in results] == [0, 0, 1]


def test_a_prompt_is_pending_until_the_step_that_computes_it_ends() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 100), 0.0)
    assert engine.pending_prefill_tokens == 100
    pending = []
    for now_s in (0.0, 1.0, 2.0):
        engine.begin_step(now_s)
        pending.append(engine.pending_prefill_tokens)
        engine.end_step(now_s + 1.0)
    assert pending == [100, 36, 0]


def test_running_requests_are_served_before_waiting_ones() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 10, 9), 0.0)
    step(engine)
    engine.add(request("b", 100, 9), 0.0)
    assert list(step(engine).emitted) == ["a"]  # b gets what is left of the budget: 63 tokens
    assert sorted(step(engine).emitted) == ["a", "b"]


def test_no_more_requests_run_than_max_num_seqs() -> None:
    engine = SimEngine(SPEC)
    for number in range(6):
        engine.add(request(f"r{number}", 4, 5), 0.0)
    step(engine)
    assert (engine.running, engine.waiting) == (4, 2)


def test_a_prefix_left_by_one_request_is_found_by_the_next() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 48, 1, first_key=100), 0.0)
    run_all(engine)
    engine.add(request("b", 50, 1, first_key=100), 0.0)
    finished = run_all(engine)[-1].finished[0]
    assert finished.cached_tokens == 48
    assert engine.counters.prefix_query_tokens == 98
    assert engine.counters.prefix_hit_tokens == 48


def test_the_last_prompt_token_is_computed_even_when_all_of_it_is_cached() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 48, 1, first_key=100), 0.0)
    run_all(engine)
    engine.add(request("b", 48, 1, first_key=100), 0.0)
    assert run_all(engine)[-1].finished[0].cached_tokens == 32


def test_two_requests_admitted_together_share_a_prefix() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 33, 1, first_key=100), 0.0)
    engine.add(request("b", 34, 1, first_key=100), 0.0)
    finished = step(engine).finished
    assert [item.cached_tokens for item in finished] == [0, 32]


def test_blocks_filled_while_decoding_are_found_by_the_next_turn() -> None:
    engine = SimEngine(SPEC)
    first = EngineRequest(RequestId("a"), 20, 13, (100,), lambda index: 100 + index)
    engine.add(first, 0.0)
    run_all(engine)
    engine.add(request("b", 60, 1, first_key=100), 0.0)
    assert run_all(engine)[-1].finished[0].cached_tokens == 32


def test_caching_can_be_switched_off() -> None:
    engine = SimEngine(replace(SPEC, enable_prefix_caching=False))
    for name in ("a", "b"):
        engine.add(request(name, 48, 1, first_key=100), 0.0)
        assert run_all(engine)[-1].finished[0].cached_tokens == 0
    assert engine.counters.prefix_query_tokens == 0


def test_the_request_that_came_last_is_preempted_and_finishes_all_the_same() -> None:
    engine = SimEngine(replace(SPEC, num_blocks=5))
    engine.add(request("old", 30, 40), 0.0)
    engine.add(request("young", 30, 40), 0.0)
    results = run_all(engine)
    assert engine.counters.preemptions >= 1
    ends = [item.request_id for result in results for item in result.finished]
    assert ends == ["old", "young"]
    assert [item.output_tokens for result in results for item in result.finished] == [40, 40]
    assert sum("young" in result.first for result in results) == 1, "one first token only"


def test_a_waiting_request_is_not_admitted_before_its_whole_prompt_fits() -> None:
    engine = SimEngine(replace(SPEC, num_blocks=6))
    engine.add(request("a", 60, 3), 0.0)
    engine.add(request("b", 60, 3), 0.0)
    step(engine)
    assert (engine.running, engine.waiting) == (1, 1)
    loose = SimEngine(replace(SPEC, num_blocks=6, reserve_full_prompt=False))
    loose.add(request("a", 60, 3), 0.0)
    loose.add(request("b", 60, 3), 0.0)
    step(loose)
    assert (loose.running, loose.waiting) == (2, 0)


def test_lower_priority_values_go_first_and_higher_ones_are_preempted() -> None:
    engine = SimEngine(replace(SPEC, scheduling="priority", max_num_seqs=1))
    for name, priority in (("c", 3), ("a", 1), ("b", 2)):
        engine.add(replace(request(name, 10, 1), priority=priority), 0.0)
    ends = [item.request_id for result in run_all(engine) for item in result.finished]
    assert ends == ["a", "b", "c"]
    tight = SimEngine(replace(SPEC, scheduling="priority", num_blocks=5))
    tight.add(replace(request("low", 30, 40), priority=9), 0.0)
    tight.add(replace(request("high", 30, 40), priority=1), 0.0)
    ends = [item.request_id for result in run_all(tight) for item in result.finished]
    assert ends == ["high", "low"]
    assert tight.counters.preemptions >= 1


def test_what_arrives_during_a_step_runs_in_the_step_after_next_when_scheduling_is_ahead() -> None:
    engine = SimEngine(replace(SPEC, async_scheduling=True))
    engine.add(request("a", 10, 9), 0.0)
    assert engine.begin_step(0.0) is not None
    engine.add(request("b", 10, 9), 0.001)
    engine.end_step(0.1)
    assert list(step(engine, 0.1).emitted) == ["a"]
    assert list(step(engine, 0.2).emitted) == ["a", "b"]


def test_what_arrives_during_the_last_step_of_an_engine_runs_in_the_next() -> None:
    engine = SimEngine(replace(SPEC, async_scheduling=True))
    engine.add(request("a", 10, 1), 0.0)
    assert engine.begin_step(0.0) is not None
    engine.add(request("b", 10, 1), 0.001)
    engine.end_step(0.1)
    assert list(step(engine, 0.1).emitted) == ["b"]


def test_an_aborted_request_gives_its_blocks_back_at_once() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 60, 9), 0.0)
    engine.add(request("b", 60, 9), 0.0)
    assert engine.begin_step(0.0) is not None
    assert engine.abort(RequestId("a"))
    assert engine.abort(RequestId("b"))
    assert not engine.abort(RequestId("b"))
    engine.check()
    assert engine.kv_used_ratio == 0.0
    assert list(engine.end_step(0.1).emitted) == []
    assert engine.begin_step(0.1) is None
    assert engine.counters.requests_aborted == 2


def test_a_request_waits_while_its_adapter_has_no_slot() -> None:
    engine = SimEngine(replace(SPEC, max_loras=1))
    engine.add(replace(request("a", 4, 3), adapter="x"), 0.0)
    engine.add(replace(request("b", 4, 3), adapter="y"), 0.0)
    engine.add(replace(request("c", 4, 3), adapter="x"), 0.0)
    assert list(step(engine).emitted) == ["a", "c"]
    assert engine.adapters() == (["x"], ["y"])
    run_all(engine)
    assert engine.counters.adapter_loads == 2


def test_an_adapter_that_is_not_resident_holds_up_its_first_step() -> None:
    spec = replace(SPEC, max_loras=1, lora_load_s=5.0)
    engine = SimEngine(spec)
    engine.add(replace(request("a", 4, 1), adapter="x"), 0.0)
    cold_s = engine.begin_step(0.0)
    engine.end_step(1.0)
    engine.add(replace(request("b", 4, 1), adapter="x"), 1.0)
    warm_s = engine.begin_step(1.0)
    assert cold_s is not None
    assert warm_s is not None
    assert cold_s - warm_s == pytest.approx(5.0)


def test_a_decode_engine_fetches_the_prompt_before_it_runs_it() -> None:
    spec = replace(SPEC, role=Role.DECODE, kv_transfer_latency_s=0.5)
    engine = SimEngine(spec)
    engine.add(replace(request("a", 40, 2, first_key=7), kv_transfer_tokens=40), 10.0)
    assert engine.begin_step(10.0) is None
    engine.check()
    wake_s = engine.wake_s
    assert wake_s is not None
    wire_s = 39 * spec.model.kv_bytes_per_token / spec.kv_transfer_bytes_per_s
    assert wake_s == pytest.approx(10.5 + wire_s)
    assert list(step(engine, wake_s).first) == ["a"]
    assert engine.counters.transferred_tokens == 39
    assert engine.counters.computed_tokens == 1


def test_fetches_of_one_engine_share_its_link() -> None:
    spec = replace(SPEC, role=Role.DECODE, kv_transfer_bytes_per_s=1e6, kv_transfer_latency_s=0.0)
    engine = SimEngine(spec)
    for name in ("a", "b"):
        engine.add(replace(request(name, 33, 1), kv_transfer_tokens=32), 0.0)
    assert engine.begin_step(0.0) is None
    first_s = engine.wake_s
    assert first_s is not None
    assert list(step(engine, first_s).emitted) == ["a"]
    assert engine.begin_step(first_s) is None
    assert engine.wake_s == pytest.approx(2 * first_s)


def test_fetched_requests_that_fill_the_cache_do_not_wedge_the_engine() -> None:
    spec = replace(SPEC, role=Role.DECODE, num_blocks=8, kv_transfer_latency_s=0.0)
    engine = SimEngine(spec)
    for name in ("a", "b"):
        engine.add(replace(request(name, 64, 40), kv_transfer_tokens=64), 0.0)
    now_s = 0.0
    finished = 0
    for _ in range(1000):
        duration_s = engine.begin_step(now_s)
        engine.check()
        if duration_s is None:
            if engine.wake_s is None:
                break
            now_s = engine.wake_s
            continue
        now_s += duration_s
        finished += len(engine.end_step(now_s).finished)
    assert finished == 2


def test_block_events_tell_what_entered_and_left_the_cache() -> None:
    engine = SimEngine(replace(SPEC, num_blocks=3, record_events=True))
    engine.add(request("a", 40, 1, first_key=100), 0.0)
    run_all(engine)
    assert engine.drain_events() == [BlocksStored(RequestId("a"), (100, 101), 0, None, None)]
    engine.add(request("b", 40, 1, first_key=200), 0.0)
    run_all(engine)
    removed, stored = engine.drain_events()
    assert removed == BlocksRemoved((101, 100))
    assert stored == BlocksStored(RequestId("b"), (200, 201), 0, None, None)
    assert engine.clear_prefix_cache()
    assert engine.drain_events() == [BlocksCleared()]


def test_a_stored_run_names_the_block_before_it() -> None:
    engine = SimEngine(replace(SPEC, record_events=True))
    engine.add(request("a", 32, 1, first_key=100), 0.0)
    run_all(engine)
    engine.drain_events()
    engine.add(request("b", 64, 1, first_key=100), 0.0)
    run_all(engine)
    (stored,) = engine.drain_events()
    assert isinstance(stored, BlocksStored)
    assert (stored.keys, stored.first_block, stored.parent) == ((102, 103), 2, 101)


def test_a_stretch_can_be_cut_at_the_end_of_the_step_under_way() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 10, 100), 0.0)
    step(engine)
    whole_s = engine.begin_step(0.0, max_steps=1000)
    assert whole_s is not None
    left_s = engine.shorten(whole_s / 2)
    assert whole_s / 2 <= left_s < whole_s / 2 * 1.1
    result = engine.end_step(left_s)
    assert 40 < result.steps < 60
    engine.check()
    assert sum(r.steps * len(r.emitted) for r in [result, *run_all(engine)]) == 99


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (EngineRequest(RequestId("a"), 0, 1), "at least one prompt"),
        (EngineRequest(RequestId("a"), 1, 0), "at least one prompt"),
        (EngineRequest(RequestId("a"), 1000, 25), "1024"),
        (EngineRequest(RequestId("a"), 16, 1, (1, 2)), "more block keys"),
        (EngineRequest(RequestId("a"), 16, 1, adapter="x"), "no adapters"),
    ],
)
def test_a_request_that_could_never_run_is_refused(bad: EngineRequest, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        SimEngine(SPEC).add(bad, 0.0)


def test_a_request_id_cannot_be_in_use_twice() -> None:
    engine = SimEngine(SPEC)
    engine.add(request("a", 4), 0.0)
    with pytest.raises(InvalidRequest, match="already here"):
        engine.add(request("a", 4), 0.0)
