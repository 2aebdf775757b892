from __future__ import annotations

import math
from random import Random

import pytest

from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.core.slo import SloTarget
from headrace.simulator.trace import TraceRequest
from headrace.twin.report import figures, offered_span_s, spread, summarise


def record(
    ttft_s: float = 1.0,
    e2e_s: float = 2.0,
    outcome: Outcome = Outcome.SERVED,
    *,
    prompt: int = 100,
    cached: int = 0,
) -> ServedRecord:
    usage = Usage(prompt, 11, cached)
    return ServedRecord(RequestId("r"), 0.0, ttft_s, e2e_s, usage, outcome)


def asked(arrival_s: float, prompt_tokens: int) -> TraceRequest:
    return TraceRequest(
        arrival_s=arrival_s,
        prompt_tokens=prompt_tokens,
        output_tokens=1,
        hash_ids=(),
        hash_block_tokens=512,
    )


def test_percentiles_are_the_values_of_real_requests() -> None:
    values = [float(n) for n in range(1, 101)]
    Random(0).shuffle(values)
    result = spread(values)
    assert (result.p50_s, result.p90_s, result.p99_s) == (50.0, 90.0, 99.0)
    assert result.mean_s == pytest.approx(50.5)


def test_one_value_is_its_own_spread() -> None:
    assert spread([3.0]) == spread([3.0, 3.0])


def test_latency_counts_served_requests_only_but_goodput_counts_all() -> None:
    records = [record(1.0, 2.0), record(9.0, 10.0), record(0.0, 0.0, Outcome.ENGINE_FAILED)]
    report = summarise("x", records, slo=SloTarget(ttft_s=2.0), ideal_hit_ratio=0.5, span_s=10.0)
    assert report.ttft.mean_s == pytest.approx(5.0)
    assert report.tpot.mean_s == pytest.approx(0.1)
    assert (report.requests, report.served, report.failed) == (3, 2, 1)
    assert report.offered_rps == pytest.approx(0.3)
    assert report.goodput_rps == pytest.approx(0.1)
    assert report.attainment_ratio == pytest.approx(1 / 3)
    assert report.outcomes == ((Outcome.SERVED, 2), (Outcome.ENGINE_FAILED, 1))


def test_hit_ratio_weighs_tokens_not_requests() -> None:
    records = [record(prompt=900, cached=0), record(prompt=100, cached=100)]
    report = summarise("x", records, slo=SloTarget(), ideal_hit_ratio=0.5, span_s=1.0)
    assert report.hit_ratio == pytest.approx(0.1)


def test_the_order_of_records_does_not_matter() -> None:
    records = [record(ttft, ttft + 1.0) for ttft in (0.3, 0.1, 0.7, 0.2)]
    forward = summarise("x", records, slo=SloTarget(), ideal_hit_ratio=0.0, span_s=1.0)
    assert forward == summarise(
        "x", records[::-1], slo=SloTarget(), ideal_hit_ratio=0.0, span_s=1.0
    )


def test_a_run_that_served_nothing_has_no_latency_figures() -> None:
    report = summarise("x", [], slo=SloTarget(), ideal_hit_ratio=0.0, span_s=0.0)
    flat = figures(report)
    assert flat["requests"] == 0
    assert flat["goodput_rps"] == 0
    assert not any(name.startswith("ttft") for name in flat)
    assert not any(math.isnan(value) for value in flat.values())


def test_a_steady_workload_spans_count_over_rate() -> None:
    assert offered_span_s([asked(t / 2, 8) for t in range(20)]) == pytest.approx(10.0)
    assert offered_span_s([asked(5.0, 8)]) == 0.0
