"""One run: one workload over one fleet at one rate, placed by one policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.routing.contenders import CONTENDERS, FLOOR
from bench.routing.fleets import specs_of
from bench.routing.workloads import WORKLOADS, requests_of
from headrace.simulator.spec import EngineSpec
from headrace.simulator.speed import presumed_speed
from headrace.twin.ideal import least_ttft_s
from headrace.twin.report import figures, offered_span_s, summarise
from headrace.twin.run import EngineTotals, run_placement

WARM_UP_RATIO: Final = 0.2
"""Share of a run's requests, the first, that warm the caches and are not counted."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is run; equal runs of equal code give equal figures."""

    trace: str
    fleet: str
    rate_rps: float
    policy: str
    seed: int
    count: int


def figures_of(run: Run) -> dict[str, float]:
    """Run it and return its figures; of the floor, only the mean TTFT."""
    workload = requests_of(run.trace, run.seed, run.rate_rps, run.count)
    specs = specs_of(run.fleet)
    first = int(WARM_UP_RATIO * len(workload))
    if run.policy == FLOOR:
        least_s = list(least_ttft_s(workload, specs))[first:]
        return {"ttft_mean_s": math.fsum(least_s) / len(least_s)}
    placement = CONTENDERS[run.policy](run.seed)
    result = run_placement(workload, specs=specs, placement=placement, seed=run.seed)
    report = summarise(
        run.policy,
        result.records[first:],
        slo=WORKLOADS[run.trace].slo,
        ideal_hit_ratio=math.nan,
        span_s=offered_span_s(workload[first:]),
    )
    return {
        **figures(report),
        "imbalance_ratio": imbalance_ratio(result.engines, specs),
        "preemptions": sum(engine.preemptions for engine in result.engines),
        "wall_s": round(result.wall_s, 3),
    }


def imbalance_ratio(engines: Sequence[EngineTotals], specs: Sequence[EngineSpec]) -> float:
    """Return how much more the busiest engine had to do than the mean: 1 is even.

    What an engine had to do is the tokens it computed over its prefill speed, so that unlike
    cards can be compared.
    """
    work = [
        engine.computed_tokens / presumed_speed(spec).prefill_tokens_per_s
        for engine, spec in zip(engines, specs, strict=True)
    ]
    total = math.fsum(work)
    return max(work) * len(work) / total if total > 0.0 else 1.0
