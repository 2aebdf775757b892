"""Ours beside the best rival, per cell and metric, and the goals of the issue. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Final, Literal

from bench.result import Goal
from bench.routing.cells import Cell, Compared, Figures
from bench.routing.contenders import OURS, is_oracle
from bench.routing.stats import Estimate, mean, ratio
from bench.routing.workloads import WORKLOADS

TTFT: Final = "ttft_mean_s"
GOODPUT: Final = "goodput_rps"
GOAL_LOADS: Final = (70, 85)


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a run: its name, what readers call it, which way is better, and its form."""

    name: str
    label: str
    better: Literal["less", "more"]
    form: Literal["s", "ms", "share", "rate", "plain"]


METRICS: Final = (
    Metric(TTFT, "TTFT mean", "less", "s"),
    Metric("ttft_p50_s", "TTFT p50", "less", "s"),
    Metric("ttft_p90_s", "TTFT p90", "less", "s"),
    Metric("ttft_p99_s", "TTFT p99", "less", "s"),
    Metric("tpot_mean_s", "TPOT mean", "less", "ms"),
    Metric("tpot_p99_s", "TPOT p99", "less", "ms"),
    Metric("e2e_mean_s", "E2E mean", "less", "s"),
    Metric(GOODPUT, "goodput", "more", "rate"),
    Metric("hit_ratio", "hit ratio", "more", "share"),
    Metric("imbalance_ratio", "load imbalance", "less", "plain"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One metric of one cell: ours, the best rival's, and ours over theirs on the same requests."""

    ours: Estimate
    rival: str
    theirs: Estimate
    ratio: Estimate


def verdict(policies: Mapping[str, Sequence[Figures]], metric: Metric) -> Verdict | None:
    """Judge one metric of one cell; None without us or without a rival.

    The best rival is the one with the best mean over seeds, among those that ran with all of
    them. Oracle forms do not count.
    """
    if OURS not in policies:
        return None
    seeds = len(policies[OURS])
    rivals = [
        policy
        for policy, runs in policies.items()
        if policy != OURS and not is_oracle(policy) and len(runs) == seeds
    ]
    if not rivals:
        return None
    sign = 1.0 if metric.better == "less" else -1.0
    best = min(rivals, key=lambda p: sign * mean(values(policies[p], metric.name)).value)
    ours, theirs = values(policies[OURS], metric.name), values(policies[best], metric.name)
    return Verdict(mean(ours), best, mean(theirs), ratio(ours, theirs))


def values(runs: Iterable[Figures], name: str) -> list[float]:
    """Return one figure of each run; one that a run lacks, as nothing was served, counts as 0."""
    return [run.get(name, 0.0) for run in runs]


def figures(compared: Compared) -> dict[str, float]:
    """Return what the result file holds: per cell ours, the best rival's and the ratio."""
    found: dict[str, float] = {}
    for cell, policies in compared.cells.items():
        for metric in METRICS:
            judged = verdict(policies, metric)
            if judged is not None:
                key = f"{key_of(cell)}.{metric.name}"
                found[f"{key}.ours"] = judged.ours.value
                found[f"{key}.best_rival"] = judged.theirs.value
                found[f"{key}.ratio"] = judged.ratio.value
    return (
        found | dict(_floors(compared)) | dict(_summary(compared)) | dict(_against_each(compared))
    )


def above_floor(compared: Compared, cell: Cell) -> tuple[Estimate, Estimate] | None:
    """Return the least mean TTFT that any placement could have, and that over the best rival's."""
    judged = verdict(compared.cells[cell], METRICS[0])
    if judged is None or cell not in compared.floor:
        return None
    least = values(compared.floor[cell], TTFT)
    return mean(least), ratio(least, values(compared.cells[cell][judged.rival], TTFT))


def _floors(compared: Compared) -> Iterator[tuple[str, float]]:
    """The floor of each cell; and per trace and load, the worst over fleets beside rivals.

    A goal below that last figure is out of anybody's reach.
    """
    worst: dict[str, float] = {}
    for cell in compared.cells:
        found = above_floor(compared, cell)
        if found is not None:
            yield f"{key_of(cell)}.{TTFT}.floor", found[0].value
            yield f"{key_of(cell)}.{TTFT}.floor_ratio", found[1].value
            key = f"worst.{cell.trace}.load{cell.load_percent}.{TTFT}.floor_ratio"
            worst[key] = max(found[1].value, worst.get(key, 0.0))
    yield from worst.items()


def spreads(compared: Compared) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of the ratios of mean TTFT and of goodput."""
    found: dict[str, tuple[float, float]] = {}
    for cell, policies in compared.cells.items():
        for metric in METRICS:
            judged = verdict(policies, metric)
            if judged is not None and metric.name in (TTFT, GOODPUT):
                bounds = (judged.ratio.low, judged.ratio.high)
                found[f"{key_of(cell)}.{metric.name}.ratio"] = bounds
    return found


def key_of(cell: Cell) -> str:
    """Return how figures name a cell."""
    return f"{cell.trace}.{cell.fleet}.load{cell.load_percent}"


def goals() -> list[Goal]:
    """Return the goals of the issue; a figure that was not measured is a goal not met."""
    found = [
        Goal(f"A1.ttft.{trace}.{load}", f"worst.{trace}.load{load}.{TTFT}.ratio", "<=", 0.85)
        for trace in WORKLOADS
        for load in GOAL_LOADS
    ]
    found.append(Goal("A1.goodput", f"least.{GOODPUT}.ratio", ">=", 1.0))
    found.append(Goal("A1.never_worse", f"worst.{TTFT}.ratio", "<=", 1.03))
    return found


def _against_each(compared: Compared) -> Iterator[tuple[str, float]]:
    """Ours over each rival's mean TTFT, as the geometric mean over all cells, with the first seed.

    The best rival of a cell is another in every cell, and is known only afterwards; whoever
    chooses a router chooses one for all.
    """
    ratios: dict[str, list[float]] = {}
    for policies in compared.cells.values():
        ours = values(policies.get(OURS, ()), TTFT)[:1]
        for policy, runs in policies.items():
            theirs = values(runs, TTFT)[:1]
            if policy != OURS and ours and theirs and theirs[0] > 0.0:
                ratios.setdefault(policy, []).append(ours[0] / theirs[0])
    for policy, found in sorted(ratios.items()):
        yield f"every_cell.{policy}.{TTFT}.ratio", geometric_mean(found)
        yield f"every_cell.{policy}.cells_better", sum(one <= 1.0 for one in found)


def _summary(compared: Compared) -> Iterator[tuple[str, float]]:
    """The worst over fleets, and over all cells: what goals are judged by."""
    by_name = {metric.name: metric for metric in METRICS}
    ttft: dict[Cell, float] = {}
    goodput: list[float] = []
    for cell, policies in compared.cells.items():
        first, second = verdict(policies, by_name[TTFT]), verdict(policies, by_name[GOODPUT])
        if first is not None and second is not None:
            ttft[cell] = first.ratio.value
            goodput.append(second.ratio.value)
    for place in {(cell.trace, cell.load_percent): None for cell in ttft}:
        worst = max(r for cell, r in ttft.items() if (cell.trace, cell.load_percent) == place)
        yield f"worst.{place[0]}.load{place[1]}.{TTFT}.ratio", worst
    if ttft:
        yield f"worst.{TTFT}.ratio", max(ttft.values())
        yield f"least.{GOODPUT}.ratio", min(goodput)
