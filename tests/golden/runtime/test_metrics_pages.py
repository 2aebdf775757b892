from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.core.endpoint import EngineLoad
from headrace.runtime.metrics_text import EngineReport, parse_metrics

HERE = Path(__file__).parent
VLLM_PAGE = (HERE / "vllm-0.32.0.metrics.txt").read_text()
SGLANG_PAGE = (HERE / "sglang.metrics.txt").read_text()


def test_a_page_of_vllm_gives_load_counters_and_cache_geometry() -> None:
    report = parse_metrics(VLLM_PAGE)
    assert report == EngineReport(
        running=12,
        waiting=0,
        kv_used_ratio=0.3058823529411765,
        prefix_queries_tokens=7813,
        prefix_hits_tokens=6912,
        prompt_tokens=7813,
        output_tokens=1457,
        preemptions=0,
        steps=126,
        finished=(("abort", 0), ("error", 0), ("length", 1), ("repetition", 0), ("stop", 0)),
        block_tokens=32,
        kv_tokens=8192,
    )
    assert report.load(5.0) == EngineLoad(12, 0, 0.3058823529411765, 5.0)


def test_a_page_of_sglang_gives_the_same_figures_under_our_names() -> None:
    report = parse_metrics(SGLANG_PAGE)
    assert report == EngineReport(
        running=162,
        waiting=2826,
        kv_used_ratio=0.28,
        prefix_queries_tokens=8_128_902,
        prefix_hits_tokens=61_030,
        prompt_tokens=8_128_902,
        output_tokens=7_557_572,
        preemptions=48,
        kv_tokens=471_258,
    )


@pytest.mark.parametrize(
    ("series", "field"),
    [
        ("vllm:num_requests_running", "running"),
        ("vllm:num_requests_waiting", "waiting"),
        ("vllm:kv_cache_usage_perc", "kv_used_ratio"),
        ("vllm:prefix_cache_hits_total", "prefix_hits_tokens"),
        ("vllm:prompt_tokens_total", "prompt_tokens"),
        ("vllm:generation_tokens_total", "output_tokens"),
        ("vllm:num_preemptions_total", "preemptions"),
    ],
)
def test_it_agrees_with_a_full_parser(series: str, field: str) -> None:
    samples = [
        sample.value
        for family in text_string_to_metric_families(VLLM_PAGE)
        for sample in family.samples
        if sample.name == series
    ]
    assert samples
    assert getattr(parse_metrics(VLLM_PAGE), field) == pytest.approx(sum(samples))
