from __future__ import annotations

import pytest

from bench.rivals.catalog import RIVALS
from headrace.simulator.presets import engine_spec
from headrace.simulator.trace import TraceRequest
from headrace.twin.ideal import ideal_hit_ratio, least_ttft_s
from headrace.twin.run import run_placement

H100, L40S = engine_spec("H100", "Llama-3.1-8B"), engine_spec("L40S", "Llama-3.1-8B")


def asked(arrival_s: float, prompt_tokens: int, *hash_ids: int) -> TraceRequest:
    return TraceRequest(
        arrival_s=arrival_s,
        prompt_tokens=prompt_tokens,
        output_tokens=1,
        hash_ids=hash_ids,
        hash_block_tokens=512,
    )


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


def served_ttft_s(workload: list[TraceRequest]) -> list[float]:
    result = run_placement(workload, specs=[H100, H100], placement=RIVALS["round-robin"](1), seed=1)
    records = sorted(result.records, key=lambda record: record.arrival_s)
    return [record.ttft_s for record in records if record.ttft_s is not None]


@pytest.mark.parametrize("prompt_tokens", [1, 2, 700, 8_192, 8_193, 40_000])
def test_a_prompt_alone_on_an_idle_engine_takes_the_least_time(prompt_tokens: int) -> None:
    workload = [asked(0.0, prompt_tokens, *range(-(-prompt_tokens // 512)))]
    assert served_ttft_s(workload) == pytest.approx(list(least_ttft_s(workload, [H100])))


def test_no_request_of_a_busy_fleet_is_faster_than_the_least() -> None:
    ids = (tuple(range(n % 3 * 100, n % 3 * 100 + 2 + n % 7)) for n in range(60))
    workload = [asked(n / 40, 512 * len(run) - 100, *run) for n, run in enumerate(ids)]
    least = list(least_ttft_s(workload, [H100]))
    served = served_ttft_s(workload)
    assert len(served) == len(least)
    assert all(one >= floor - 1e-9 for one, floor in zip(served, least, strict=True))
    assert sum(served) > 1.2 * sum(least)


def test_the_fastest_card_counts() -> None:
    workload = [asked(0.0, 4_000, *range(8))]
    assert list(least_ttft_s(workload, [L40S, H100])) == list(least_ttft_s(workload, [H100]))
