from __future__ import annotations

import pytest

from bench.routing_real.client import Asked
from bench.routing_real.figures import GOALS, found, line_of
from bench.routing_real.runs import Run
from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.simulator.trace import TraceRequest
from headrace.twin.replay import Lateness

WORKLOAD = [TraceRequest(0.0, 100, 11), TraceRequest(1.0, 100, 11)]


def run(ttft_s: float, cached: int, *, failed: bool = False, late_s: float = 0.005) -> Run:
    good = ServedRecord(
        RequestId("a"), 0.0, ttft_s, ttft_s + 1.0, Usage(100, 11, cached), Outcome.SERVED
    )
    bad = ServedRecord(RequestId("b"), 1.0, 0.0, 0.0, Usage(100, 0), Outcome.ENGINE_FAILED)
    records = [good, bad if failed else good]
    asked = Asked(records, Lateness(0.001, late_s, late_s), 3, ("HTTP 502",) if failed else ())
    return Run(asked, 10.0, 0.2, 0.1, 0.05)


def test_ours_is_set_against_the_best_other_of_each_figure() -> None:
    runs = {
        "headrace": [run(0.2, 60)],
        "smg.cache_aware": [run(0.4, 80)],
        "vllm-router.kv_aware": [run(0.25, 50)],
    }
    figures = found(runs, [WORKLOAD]).figures
    assert figures["ratio.ttft_mean_vs_best_other"] == pytest.approx(0.2 / 0.25)
    assert figures["ratio.hit_vs_best_other"] == pytest.approx(0.6 / 0.8)
    assert figures["smg.cache_aware.hit_ratio"] == pytest.approx(0.8)
    assert figures["failed"] == 0


def test_every_goal_asks_for_a_figure_that_there_is() -> None:
    runs = {"headrace": [run(0.2, 60)], "smg.cache_aware": [run(0.4, 80)]}
    figures = found(runs, [WORKLOAD]).figures
    assert all(goal.figure in figures for goal in GOALS)


def test_repeats_give_their_mean_and_their_spread() -> None:
    runs = {"headrace": [run(0.2, 60), run(0.4, 60)], "smg.cache_aware": [run(0.4, 80)] * 2}
    result = found(runs, [WORKLOAD] * 2)
    assert result.figures["headrace.ttft_mean_s"] == pytest.approx(0.3)
    assert result.spread["headrace.ttft_mean_s"] == pytest.approx((0.2, 0.4))


def test_failures_and_disturbed_runs_of_all_repeats_are_counted_not_averaged() -> None:
    ours = [run(0.2, 60, late_s=0.5), run(0.2, 60)]
    other = [run(0.2, 60), run(0.2, 60, failed=True)]
    result = found({"headrace": ours, "smg.cache_aware": other}, [WORKLOAD] * 2)
    assert result.figures["headrace.disturbed"] == 1
    assert result.figures["smg.cache_aware.failed"] == 1
    assert result.figures["failed"] == 1
    assert "smg.cache_aware.failed" not in result.spread


def test_a_line_says_what_failed_and_how_late_the_client_was() -> None:
    line = line_of("us", run(0.2, 60, failed=True))
    assert "us: 10 wall s, 1 failed" in line
    assert "p99 5.0" in line
    assert "3 turns waited" in line
