"""Every cell of the comparison: which runs it needs, and at which rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.routing.cache import RunCache
from bench.routing.capacity import Place, Probe, best_of, rate_rps, settle, step_near
from bench.routing.contenders import FLOOR, OURS, STRONG, is_oracle
from bench.routing.fleets import specs_of
from bench.routing.pool import figures_by_run
from bench.routing.runs import Run
from bench.routing.workloads import WORKLOADS, requests_of
from headrace.simulator.speed import presumed_speed

Figures = Mapping[str, float]

FINALISTS: Final = 4
"""How many rivals by each of two figures go on to the other seeds."""

SUSTAINED_RATIO: Final = 0.75
"""Share of requests that must meet both targets for a rate to count as sustained."""

_HINT: Final = 0.6
"""Where the search begins: so much of what the fleet could prefill if nothing were ever cached."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the comparison; ``load_percent`` is of the best policy's capacity."""

    trace: str
    fleet: str
    load_percent: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compare.

    Attributes:
        traces: As in ``WORKLOADS``; likewise fleets and policies.
        fleets: As in ``FLEETS``.
        loads: Per cent of the best policy's capacity.
        policies: As in ``CONTENDERS``.
        seeds: At least one; who cannot win a cell runs there with the first only.
        workers: Processes.

    """

    traces: Sequence[str]
    fleets: Sequence[str]
    loads: Sequence[int]
    policies: Sequence[str]
    seeds: Sequence[int]
    workers: int

    def places(self, seeds: Sequence[int]) -> list[Place]:
        """Return every trace and fleet with every one of ``seeds``."""
        return [(t, f, s) for t in self.traces for f in self.fleets for s in seeds]

    def cells(self) -> Iterator[Cell]:
        """Yield every cell, in the order of the tables."""
        for trace in self.traces:
            for fleet in self.fleets:
                for load in self.loads:
                    yield Cell(trace, fleet, load)


@dataclass(frozen=True, slots=True)
class Compared:
    """What was found: per cell and policy, the figures of each seed in the order of the plan.

    ``floor`` has no policy: it is what none can do better, ``headrace.twin.ideal.least_ttft_s``.
    """

    capacity: Mapping[Place, Probe]
    cells: Mapping[Cell, Mapping[str, list[Figures]]] = field(default_factory=dict)
    floor: Mapping[Cell, list[Figures]] = field(default_factory=dict)


def compare(plan: Plan, cache: RunCache) -> Compared:
    """Find the capacities; run everyone with the first seed, then the finalists with the others."""
    capacity = capacities(plan, cache)
    cells: dict[Cell, dict[str, list[Figures]]] = {cell: {} for cell in plan.cells()}
    first, *others = plan.seeds
    runs = {
        (cell, policy): _run(cell, policy, first, capacity)
        for cell in cells
        for policy in plan.policies
    }
    made = figures_by_run(runs.values(), cache, plan.workers, "first seed")
    for (cell, policy), run in runs.items():
        cells[cell][policy] = [made[run]]
    again = {
        (cell, policy): [_run(cell, policy, seed, capacity) for seed in others]
        for cell, policies in cells.items()
        for policy in finalists(policies)
    }
    made = figures_by_run(
        (run for several in again.values() for run in several), cache, plan.workers, "other seeds"
    )
    for (cell, policy), several in again.items():
        cells[cell][policy] += [made[run] for run in several]
    floors = {cell: [_run(cell, FLOOR, seed, capacity) for seed in plan.seeds] for cell in cells}
    made = figures_by_run(
        (run for several in floors.values() for run in several), cache, plan.workers, "floor"
    )
    floor: dict[Cell, list[Figures]] = {
        cell: [made[run] for run in several] for cell, several in floors.items()
    }
    return Compared(capacity, cells, floor)


def finalists(policies: Mapping[str, Sequence[Figures]]) -> list[str]:
    """Return us and the rivals that may be a cell's best, by what the first seed gave.

    These are the first few by mean TTFT and by goodput; oracle forms are not among them.
    """
    rivals = [policy for policy in policies if policy != OURS and not is_oracle(policy)]
    by_ttft = sorted(rivals, key=lambda p: policies[p][0].get("ttft_mean_s", float("inf")))
    by_goodput = sorted(rivals, key=lambda p: -policies[p][0]["goodput_rps"])
    names = {OURS} & policies.keys() | {*by_ttft[:FINALISTS], *by_goodput[:FINALISTS]}
    return [policy for policy in policies if policy in names]


def capacities(plan: Plan, cache: RunCache) -> dict[Place, Probe]:
    """Return what 100 % is, per trace, fleet and seed, and whose capacity that is.

    With the first seed every strong policy is tried; with the others, the one that was best.
    """

    def ask(asked: Mapping[Place, Probe]) -> dict[Place, bool]:
        runs = {place: _probe(place, probe) for place, probe in asked.items()}
        made = figures_by_run(runs.values(), cache, plan.workers, "capacity")
        return {place: sustained(made[run]) for place, run in runs.items()}

    first, *others = plan.seeds
    found = settle(
        {place: best_of(STRONG, _start(place)) for place in plan.places([first])},
        ask,
    )
    again: dict[Place, Probe] = {}
    for trace, fleet, seed in plan.places(others):
        again[trace, fleet, seed] = found[trace, fleet, first]
    found |= settle({place: best_of([p.policy], p.step) for place, p in again.items()}, ask)
    return found


def sustained(figures: Figures) -> bool:
    """Return whether enough requests met both targets; nothing served is not enough."""
    return figures.get("attainment_ratio", 0.0) >= SUSTAINED_RATIO


def _start(place: Place) -> int:
    trace, fleet, seed = place
    some = requests_of(trace, seed, 100.0, WORKLOADS[trace].count)
    mean_tokens = sum(one.prompt_tokens for one in some) / len(some)
    speed = sum(presumed_speed(spec).prefill_tokens_per_s for spec in specs_of(fleet))
    return step_near(_HINT * speed / mean_tokens)


def _probe(place: Place, probe: Probe) -> Run:
    trace, fleet, seed = place
    return Run(trace, fleet, rate_rps(probe.step), probe.policy, seed, WORKLOADS[trace].count)


def _run(cell: Cell, policy: str, seed: int, capacity: Mapping[Place, Probe]) -> Run:
    full_rps = rate_rps(capacity[cell.trace, cell.fleet, seed].step)
    rate = float(f"{full_rps * cell.load_percent / 100.0:.6g}")
    return Run(cell.trace, cell.fleet, rate, policy, seed, WORKLOADS[cell.trace].count)
