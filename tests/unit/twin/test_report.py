from __future__ import annotations

import math
from random import Random

import pytest

from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.core.slo import SloTarget
from headrace.simulator.trace import TraceRequest
from headrace.twin.report import figures, ideal_hit_ratio, offered_span_s, spread, summarise


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


def asked(arrival_s: float, prompt_tokens: int, *hash_ids: int) -> TraceRequest:
    return TraceRequest(
        arrival_s=arrival_s,
        prompt_tokens=prompt_tokens,
        output_tokens=1,
        hash_ids=hash_ids,
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


def test_the_ideal_cache_holds_a_block_once_any_request_named_it() -> None:
    workload = [asked(0, 1024, 1, 2), asked(1, 1024, 1, 3), asked(2, 1024, 9, 2)]
    assert ideal_hit_ratio(workload) == pytest.approx(512 / 3072)


def test_the_ideal_cache_never_holds_the_last_token() -> None:
    assert ideal_hit_ratio([asked(0, 512, 1), asked(1, 512, 1)]) == pytest.approx(511 / 1024)


def test_what_an_endless_cache_would_hold_is_counted_over_all_prompts() -> None:
    prompts = [(128, (1, 2)), (128, (1, 3)), (100, (1, 3))]
    workload = [TraceRequest(0.0, tokens, 20, ids, 64) for tokens, ids in prompts]
    assert ideal_hit_ratio(workload) == pytest.approx((64 + 99) / 356)
    assert ideal_hit_ratio([]) == 0.0


def test_of_a_run_begun_by_an_earlier_prompt_only_that_part_is_held() -> None:
    workload = [asked(0, 600, 1, 2), asked(1, 2000, 1, 2, 3, 4)]
    assert ideal_hit_ratio(workload) == pytest.approx(600 / 2600)


def test_an_answer_that_is_sent_back_counts_as_held() -> None:
    first = TraceRequest(0.0, 600, 400, (1, 2), 512, ())
    later = asked(1, 1200, 1, 2, 3)
    assert ideal_hit_ratio([first, later]) == pytest.approx(600 / 1800)
    known = TraceRequest(0.0, 600, 400, (1,), 512, (2,))
    assert ideal_hit_ratio([known, later]) == pytest.approx(1000 / 1800)


def test_a_block_after_a_miss_does_not_count() -> None:
    workload = [asked(0, 1536, 1, 2, 3), asked(1, 1536, 1, 9, 3)]
    assert ideal_hit_ratio(workload) == pytest.approx(512 / 3072)


def test_a_steady_workload_spans_count_over_rate() -> None:
    assert offered_span_s([asked(t / 2, 8) for t in range(20)]) == pytest.approx(10.0)
    assert offered_span_s([asked(5.0, 8)]) == 0.0
