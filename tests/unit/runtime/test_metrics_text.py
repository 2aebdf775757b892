from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.metrics_text import EngineReport, parse_metrics


def page(*lines: str) -> str:
    return "".join(line + "\n" for line in lines)


def test_an_empty_page_says_nothing_and_gives_no_load() -> None:
    assert parse_metrics("") == EngineReport()
    assert parse_metrics("").load(1.0) is None


def test_ranks_are_added_up_and_their_kv_use_is_averaged() -> None:
    report = parse_metrics(
        page(
            'vllm:num_requests_running{engine="0"} 2.0',
            'vllm:num_requests_running{engine="1"} 3.0',
            'vllm:num_requests_waiting{engine="0"} 1.0',
            'vllm:kv_cache_usage_perc{engine="0"} 0.2',
            'vllm:kv_cache_usage_perc{engine="1"} 0.6',
            'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="10"} 1.0',
            'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="20"} 1.0',
        )
    )
    assert (report.running, report.waiting) == (5, 1)
    assert report.kv_used_ratio == pytest.approx(0.4)
    assert (report.block_tokens, report.kv_tokens) == (16, 480)


def test_a_series_whose_name_only_begins_alike_is_another_series() -> None:
    report = parse_metrics(
        page(
            'vllm:num_requests_waiting_by_reason{reason="capacity"} 7.0',
            "vllm:num_requests_waiting 1.0",
        )
    )
    assert report.waiting == 1


def test_a_name_inside_a_help_line_is_not_a_sample() -> None:
    text = page("# HELP x see vllm:num_requests_running 9", "vllm:num_requests_running 1")
    assert parse_metrics(text).running == 1


@pytest.mark.parametrize("value", ["NaN", "+Inf", "many", ""])
def test_a_value_that_is_no_finite_number_counts_as_absent(value: str) -> None:
    assert parse_metrics(page(f"vllm:num_requests_running {value}")).running is None


def test_a_timestamp_after_the_value_is_ignored() -> None:
    assert parse_metrics(page("vllm:num_requests_running 3 1795500441")).running == 3


def test_a_label_may_hold_braces_and_escaped_quotes() -> None:
    text = page('vllm:num_requests_running{model_name="a}\\"b {x} 9"} 3')
    assert parse_metrics(text).running == 3


def test_what_the_engine_does_not_know_is_none() -> None:
    text = page('vllm:cache_config_info{block_size="None",num_gpu_blocks="None"} 1.0')
    assert parse_metrics(text).kv_tokens is None


def test_only_the_newest_adapter_series_counts() -> None:
    text = page(
        'vllm:lora_requests_info{running_lora_adapters="b,a"} 2.0',
        'vllm:lora_requests_info{running_lora_adapters="old"} 1.0',
    )
    assert parse_metrics(text).adapters_running == ("a", "b")


def test_finished_requests_are_counted_by_the_engines_reason() -> None:
    text = page(
        'vllm:request_success_total{engine="0",finished_reason="abort"} 1.0',
        'vllm:request_success_total{engine="1",finished_reason="abort"} 2.0',
    )
    report = parse_metrics(text)
    assert report.ended("abort") == 3
    assert report.ended("stop") == 0


@given(st.text(alphabet='vllm:num_requests_running{}=" 1.\n#', max_size=200), st.text(max_size=99))
def test_no_text_is_an_error_or_an_endless_loop(left: str, right: str) -> None:
    report = parse_metrics(left + "\nvllm:num_requests_running 1\n" + right)
    assert report.running is None or report.running >= 0
