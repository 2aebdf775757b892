"""What a controller is said to have done, and how it is subtracted and judged."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.controller import report
from bench.controller.counts import Counts
from bench.controller.ground import samples
from bench.controller.phases import Changed, Rested

TEXT = """\
# HELP dispatched_total Requests.
# TYPE dispatched_total counter
dispatched_total{flow_schema="writes",level="low"} 3
dispatched_total{flow_schema="reads",level="low"} 4
dispatched_total_other{flow_schema="writes"} 9
"""


def _counts(at_s: float, cpu_s: float, served: int, **calls: int) -> Counts:
    found = Counter({("list" if name == "read" else name, "pods"): n for name, n in calls.items()})
    return Counts(at_s, cpu_s, sum(calls.values()), found, served, at_s, {"etcd": cpu_s}, cpu_s)


def test_samples_are_those_of_one_metric() -> None:
    found = [(labels["flow_schema"], value) for labels, value in samples(TEXT, "dispatched_total")]
    assert found == [("writes", 3.0), ("reads", 4.0)]


def test_a_difference_tells_writes_from_reads_and_ours_from_others() -> None:
    before = _counts(10.0, 1.0, 5, create=5, read=2)
    used = _counts(20.0, 2.0, 8, create=7, delete=1, read=3).since(before)
    assert (used.writes, used.served, used.reads) == (3, 3, 1)
    assert used.others_ratio == pytest.approx(0.7), "7 of 10 busy seconds were nobody's of ours"


def test_calls_are_told_per_change_and_latency_over_all_kinds() -> None:
    used = _counts(10.0, 1.0, 6, create=4, apply=2)
    kinds = {"up": Changed([0.1, 0.3], [0.2, 0.4], used), "down": Changed([0.2], [0.3], used)}
    figures = report.changed(kinds)
    assert figures["change.up.calls.create_pods"] == 2.0
    assert figures["change.up.calls.writes"] == 3.0
    assert figures["change.p50_s"] == 0.2
    assert figures["change.p99_s"] == figures["change.max_s"] == 0.3
    assert figures["change.from_request.max_s"] == 0.4


def test_a_quiet_minute_meets_its_goals_and_one_write_that_only_the_server_saw_does_not() -> None:
    quiet = _counts(60.0, 0.1, 0)
    for served, met in ((0, True), (1, False)):
        figures = report.rested(Rested(_counts(60.0, 0.1, served), 0))
        goals = [goal for goal in report.GOALS if goal.figure.startswith("rest.")]
        assert all(goal.judged(figures)["met"] for goal in goals) is met
    assert report.rested(Rested(quiet, 0))["rest.cpu_percent"] == pytest.approx(1 / 6)
