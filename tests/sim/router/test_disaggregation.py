"""Requests split between simulated engines: nothing lost, and worth it where it is done."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from statistics import mean

import pytest

from headrace.core.endpoint import Role
from headrace.simulator.presets import engine_spec
from headrace.simulator.synthetic import synthesize
from headrace.simulator.trace import TraceRequest
from headrace.twin.production import ProductionRouter
from headrace.twin.run import TwinResult, run_placement
from router.router import Router

H100 = engine_spec("H100", "Llama-3.1-8B")


def run(
    workload: list[TraceRequest], prefill: int, rest: int, seed: int = 1, link: float = 25e9
) -> tuple[TwinResult, Router]:
    spec = replace(H100, kv_transfer_bytes_per_s=link)
    specs = [replace(spec, role=Role.PREFILL)] * prefill
    specs += [replace(spec, role=Role.DECODE if prefill else Role.BOTH)] * rest
    placement = ProductionRouter("expected-ttft", seed)
    result = run_placement(workload, specs=specs, placement=placement, seed=seed)
    return result, placement.router


def alike(rate_rps: float, prompt: int, output: int, duration_s: float) -> list[TraceRequest]:
    rng, made, at_s = Random(7), [], 0.0
    while (at_s := at_s + rng.expovariate(rate_rps)) < duration_s:
        length = round(rng.lognormvariate(math.log(prompt), 0.4))
        made.append(TraceRequest(at_s, length, output))
    return made


def tpot_s(result: TwinResult) -> float:
    return mean(record.tpot_s or 0.0 for record in result.records)


def busy(result: TwinResult) -> list[int]:
    return [engine.computed_tokens for engine in result.engines]


@pytest.mark.parametrize("name", ["conversation", "agents", "code"])
def test_every_request_ends_once_with_what_it_asked_for(name: str) -> None:
    workload = synthesize(name, 3, rate_rps=12.0, duration_s=20.0)
    result, router = run(workload, 1, 3)
    assert len(result.records) == len(workload)
    for record, asked in zip(result.records, workload, strict=True):
        assert record.served
        assert record.usage.prompt_tokens == asked.prompt_tokens
        assert record.usage.output_tokens == asked.output_tokens
        assert 0.0 < record.ttft_s <= record.e2e_s
    assert [router.inflight(view.endpoint_id) for view in router.endpoints()] == [0] * 4


def test_the_same_seed_gives_the_same_run() -> None:
    workload = alike(16.0, 6_000, 200, 8.0)
    assert run(workload, 1, 3)[0].digest == run(workload, 1, 3)[0].digest


def test_long_prompts_beside_long_replies_are_computed_elsewhere_and_tokens_come_sooner() -> None:
    workload = alike(12.0, 6_000, 300, 12.0)
    together, _ = run(workload, 0, 4)
    split, _ = run(workload, 1, 3)
    assert busy(split)[0] > 0.3 * sum(busy(split))
    assert tpot_s(split) < tpot_s(together)


def test_over_a_slow_link_prompts_stay_where_the_reply_is() -> None:
    workload = alike(12.0, 6_000, 300, 8.0)
    result, _ = run(workload, 1, 3, link=1e8)
    assert busy(result)[0] < 0.05 * sum(busy(result))


def test_few_requests_at_a_time_are_not_split() -> None:
    workload = [TraceRequest(float(second), 2_000, 20) for second in range(20)]
    result, _ = run(workload, 1, 3)
    assert busy(result)[0] == 0


def test_engines_for_prompts_are_not_overrun() -> None:
    workload = alike(24.0, 6_000, 60, 8.0)
    result, _ = run(workload, 1, 5)
    first_s = sorted(record.ttft_s for record in result.records)
    assert first_s[len(first_s) // 2] < 0.5
    assert all(tokens > 0 for tokens in busy(result))
