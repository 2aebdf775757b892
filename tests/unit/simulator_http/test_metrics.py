from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from headrace.simulator.http.metrics import EngineFacts, Histogram, Stats, exposition, token_buckets


def test_a_histogram_counts_a_value_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert list(histogram.lines("h", 'a="b"')) == [
        'h_bucket{a="b",le="1.0"} 2.0',
        'h_bucket{a="b",le="2.0"} 3.0',
        'h_bucket{a="b",le="+Inf"} 4.0',
        'h_count{a="b"} 4.0',
        'h_sum{a="b"} 12.0',
    ]


def test_token_buckets_go_up_to_the_limit() -> None:
    assert token_buckets(300) == (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)


def test_the_page_parses_whatever_the_names_are() -> None:
    facts = EngineFacts(
        running_adapters=('a"b', "c\\d\ne"),
        adapters_at_s=1.0,
        max_loras=2,
        cache_config={"block_size": "16"},
    )
    page = exposition('m"\\\n', facts, Stats(1_000)).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    running = families["vllm:num_requests_running"].samples[0]
    assert running.labels == {"engine": "0", "model_name": 'm"\\\n'}
    adapters = families["vllm:lora_requests_info"].samples[0]
    assert adapters.labels["running_lora_adapters"] == 'a"b,c\\d\ne'
    assert len(families) == len(page.split("# TYPE ")) - 1
