from __future__ import annotations

from dataclasses import replace

import pytest

from bench.demo import (
    DEFAULT,
    FOR_SYNTHETIC,
    FOR_TRACE,
    GOALS,
    OTHERS,
    SYNTHETIC_RPS,
    agreement,
    report,
    reported,
    utilisation,
)
from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.simulator.trace import TraceRequest
from headrace.twin.report import Report
from headrace.twin.workloads import WorkloadChoice

WORKLOAD = [TraceRequest(t / 2, 1000, 10) for t in range(20)]


def run(ttft_s: float, hit_tokens: int = 100) -> Report:
    records = [
        ServedRecord(
            RequestId(f"r{n}"),
            n / 2,
            ttft_s,
            ttft_s + 1,
            Usage(1000, 10, hit_tokens),
            Outcome.SERVED,
        )
        for n in range(20)
    ]
    return report("x", records, WORKLOAD)


def test_the_default_is_set_against_the_better_of_the_others() -> None:
    reports = {DEFAULT: run(1.0), OTHERS[0]: run(4.0), OTHERS[1]: run(2.0)}
    flat = reported("live", reports)
    assert flat["live.ratio.ttft_mean_vs_best_other"] == pytest.approx(0.5)
    assert flat["live.ratio.ttft_p99_vs_best_other"] == pytest.approx(0.5)
    assert flat["live.failed"] == 0


def test_agreement_is_how_far_the_twin_is_off_either_way() -> None:
    for twin_s in (0.8, 1.2):
        assert agreement(run(1.0), run(twin_s))["agree.ttft_mean_off_ratio"] == pytest.approx(0.2)
    assert agreement(run(1.0, 100), run(1.0, 90))["agree.hit_off_ratio"] == pytest.approx(0.1)


def test_every_goal_names_a_figure_that_is_reported() -> None:
    reports = {policy: run(1.0) for policy in (DEFAULT, *OTHERS)}
    found = {"utilisation": 0.7, **agreement(run(1.0), run(1.0))}
    found |= reported("live", reports) | reported("twin_hour", reports)
    assert {goal.figure for goal in GOALS} <= set(found)


def test_utilisation_is_in_proportion_to_the_rate() -> None:
    faster = [replace(request, arrival_s=request.arrival_s / 2) for request in WORKLOAD]
    once, twice = utilisation(WORKLOAD, FOR_TRACE), utilisation(faster, FOR_TRACE)
    assert twice == pytest.approx(2 * once)


def test_the_workload_that_stands_in_for_the_trace_loads_its_fleet_as_much() -> None:
    workload = WorkloadChoice(None, rate_rps=SYNTHETIC_RPS, minutes=10.0).load()
    assert 0.6 <= utilisation(workload, FOR_SYNTHETIC) <= 0.8
