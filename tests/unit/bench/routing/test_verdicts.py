from __future__ import annotations

import pytest

from bench.routing.cells import Cell, Compared, Figures, finalists
from bench.routing.tables import csv_lines
from bench.routing.verdicts import METRICS, figures, goals, verdict

TTFT = next(metric for metric in METRICS if metric.name == "ttft_mean_s")
GOODPUT = next(metric for metric in METRICS if metric.name == "goodput_rps")


def run(ttft_s: float, goodput_rps: float = 1.0) -> Figures:
    return {"ttft_mean_s": ttft_s, "goodput_rps": goodput_rps}


def test_the_best_rival_is_the_one_with_the_best_mean_over_seeds() -> None:
    judged = verdict(
        {
            "headrace": [run(1.0), run(1.0)],
            "fast-once": [run(0.5), run(9.0)],
            "steady": [run(2.0), run(2.0)],
        },
        TTFT,
    )
    assert judged is not None
    assert judged.rival == "steady"
    assert judged.ratio.value == pytest.approx(0.5)


def test_more_is_better_where_the_metric_says_so() -> None:
    judged = verdict(
        {"headrace": [run(1.0, 3.0)], "low": [run(1.0, 2.0)], "high": [run(1.0, 4.0)]}, GOODPUT
    )
    assert judged is not None
    assert judged.rival == "high"
    assert judged.ratio.value == pytest.approx(0.75)


def test_an_oracle_never_counts_as_the_best_rival() -> None:
    judged = verdict(
        {"headrace": [run(1.0)], "mooncake": [run(1.1)], "mooncake-oracle": [run(0.1)]}, TTFT
    )
    assert judged is not None
    assert judged.rival == "mooncake"


def test_a_rival_without_all_seeds_does_not_count() -> None:
    judged = verdict(
        {"headrace": [run(1.0), run(1.0)], "one": [run(0.1)], "two": [run(2.0), run(2.0)]}, TTFT
    )
    assert judged is not None
    assert judged.rival == "two"


def test_there_is_no_verdict_without_us_or_without_a_rival() -> None:
    assert verdict({"mooncake": [run(1.0)]}, TTFT) is None
    assert verdict({"headrace": [run(1.0)]}, TTFT) is None


def test_finalists_are_we_and_the_best_by_either_figure() -> None:
    policies = {f"r{n}": [run(float(n + 1), 100.0)] for n in range(10)}
    policies["late"] = [run(50.0, 200.0)]
    policies["late-oracle"] = [run(0.1, 900.0)]
    policies["headrace"] = [run(99.0, 0.0)]
    chosen = finalists(policies)
    assert {"headrace", "late", "r0", "r1", "r2", "r3"} <= set(chosen)
    assert "late-oracle" not in chosen
    assert "r9" not in chosen


def compared() -> Compared:
    cells = {
        Cell("mooncake-synthetic", fleet, load): {
            "headrace": [run(ttft_s, 0.9)],
            "mooncake": [run(1.0, 1.0)],
        }
        for fleet, load, ttft_s in (("h100", 70, 0.8), ("mixed", 70, 0.9), ("h100", 50, 1.5))
    }
    return Compared({}, cells)


def test_a_goal_is_judged_by_the_worst_fleet_and_the_worst_cell() -> None:
    found = figures(compared())
    assert found["worst.mooncake-synthetic.load70.ttft_mean_s.ratio"] == pytest.approx(0.9)
    assert found["worst.ttft_mean_s.ratio"] == pytest.approx(1.5)
    assert found["least.goodput_rps.ratio"] == pytest.approx(0.9)
    met = {goal.id: goal.judged(found)["met"] for goal in goals()}
    assert not met["A1.ttft.mooncake-synthetic.70"]
    assert not met["A1.never_worse"]
    assert not met["A1.ttft.agents-miniswe.85"]  # not measured is not met


def test_the_file_of_everyone_has_a_line_per_cell_and_policy() -> None:
    heading, *lines = csv_lines(compared())
    assert len(lines) == 6
    assert all(line.count(",") == heading.count(",") for line in lines)
    assert lines[0].startswith("mooncake-synthetic,h100,70,headrace,1,0.8,0")


def test_the_floor_stands_beside_the_best_rival() -> None:
    found = compared()
    cell = Cell("mooncake-synthetic", "h100", 70)
    floored = Compared({}, found.cells, {cell: [{"ttft_mean_s": 0.6}]})
    made = figures(floored)
    assert made["mooncake-synthetic.h100.load70.ttft_mean_s.floor"] == pytest.approx(0.6)
    assert made["mooncake-synthetic.h100.load70.ttft_mean_s.floor_ratio"] == pytest.approx(0.6)
    assert made["worst.mooncake-synthetic.load70.ttft_mean_s.floor_ratio"] == pytest.approx(0.6)
    assert "mooncake-synthetic.mixed.load70.ttft_mean_s.floor" not in made
