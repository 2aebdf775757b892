"""What runs amount to: figures per contender, ours over the best other, goals. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.result import Goal
from bench.routing_real.contenders import OURS
from bench.routing_real.runs import Run
from headrace.core.slo import SloTarget
from headrace.simulator.trace import TraceRequest
from headrace.twin.ideal import ideal_hit_ratio
from headrace.twin.report import Report, offered_span_s, summarise

SLO: Final = SloTarget(ttft_s=2.0, tpot_s=0.1)

GOALS: Final = (
    Goal("A4.ttft_mean", "ratio.ttft_mean_vs_best_other", "<=", 1.0),
    Goal("A4.hit", "ratio.hit_vs_best_other", ">=", 1.0),
    Goal("A4.failed", "failed", "==", 0),
)

LOWER: Final = ("ttft_mean_s", "ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "tpot_mean_s")
"""Figures of which less is better."""


@dataclass(frozen=True, slots=True)
class Found:
    """Figures, and the least and greatest value of those that are means over repeats."""

    figures: dict[str, float]
    spread: dict[str, tuple[float, float]]


def found(runs: Mapping[str, Sequence[Run]], workloads: Sequence[Sequence[TraceRequest]]) -> Found:
    """Reduce all runs: a figure of several repeats is their mean. One workload per repeat."""
    each = {
        name: [of_run(run, workload) for run, workload in zip(repeats, workloads, strict=True)]
        for name, repeats in runs.items()
    }
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    for name, repeats in each.items():
        for figure in repeats[0]:
            values = [repeat[figure] for repeat in repeats]
            figures[f"{name}.{figure}"] = statistics.fmean(values)
            if len(values) > 1:
                spread[f"{name}.{figure}"] = (min(values), max(values))
        for count in ("failed", "disturbed"):
            figures[f"{name}.{count}"] = int(sum(repeat[count] for repeat in repeats))
            spread.pop(f"{name}.{count}", None)
    return Found(figures | ratios(figures, [name for name in runs if name != OURS]), spread)


def of_run(run: Run, workload: Sequence[TraceRequest]) -> dict[str, float]:
    """Return the figures of one run; latencies are in engine seconds."""
    report = report_of("", run, workload)
    late = run.asked.lateness
    return {
        "requests": report.requests,
        "failed": report.failed,
        "ttft_mean_s": report.ttft.mean_s,
        "ttft_p50_s": report.ttft.p50_s,
        "ttft_p90_s": report.ttft.p90_s,
        "ttft_p99_s": report.ttft.p99_s,
        "tpot_mean_s": report.tpot.mean_s,
        "e2e_mean_s": report.e2e.mean_s,
        "hit_ratio": report.hit_ratio,
        "goodput_ratio": report.attainment_ratio,
        "waited_turns": run.asked.waited,
        "client_late_p99_wall_ms": late.p99_s * 1e3,
        "client_late_max_wall_ms": late.max_s * 1e3,
        "router_cores": run.router_cores,
        "engine_cores": run.engine_cores,
        "client_cores": run.client_cores,
        "wall_s": run.wall_s,
        "disturbed": int(run.disturbed),
    }


def report_of(name: str, run: Run, workload: Sequence[TraceRequest]) -> Report:
    """Return one run as the twin's tables show it."""
    return summarise(
        name,
        run.asked.records,
        slo=SLO,
        ideal_hit_ratio=ideal_hit_ratio(workload),
        span_s=offered_span_s(workload),
    )


def ratios(figures: Mapping[str, float], others: Sequence[str]) -> dict[str, float]:
    """Return ours over the best other's, and the failures of all together.

    Each figure has a best other of its own: a rival that is first in one may be last in another.
    """
    made: dict[str, float] = {}
    for figure in LOWER:
        name = figure.removesuffix("_s")
        made[f"ratio.{name}_vs_best_other"] = _over_best(figures, others, figure, min)
    for name, figure in (("hit", "hit_ratio"), ("goodput", "goodput_ratio")):
        made[f"ratio.{name}_vs_best_other"] = _over_best(figures, others, figure, max)
    made["failed"] = int(sum(figures[f"{name}.failed"] for name in (OURS, *others)))
    return made


def _over_best(
    figures: Mapping[str, float],
    others: Sequence[str],
    figure: str,
    best: Callable[[Sequence[float]], float],
) -> float:
    return figures[f"{OURS}.{figure}"] / best([figures[f"{name}.{figure}"] for name in others])


def line_of(name: str, run: Run) -> str:
    """Say what one run took, for who watches."""
    late, asked = run.asked.lateness, run.asked
    failed = sum(not record.served for record in asked.records)
    return (
        f"{name}: {run.wall_s:.0f} wall s, {failed} failed; cores busy: router "
        f"{run.router_cores:.2f}, engines {run.engine_cores:.2f}, client {run.client_cores:.2f}; "
        f"client late by p99 {late.p99_s * 1e3:.1f}, at most {late.max_s * 1e3:.1f} wall ms; "
        f"{asked.waited} turns waited for an answer"
    )
