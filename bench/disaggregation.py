"""When it pays to let one engine compute a prompt and another the reply, in the twin.

Eight engines serve the same requests as one pool that does both, and with some of them set aside
for prompts: split where our router thinks that it pays, and split always, as proxies do that take
the two kinds of engines as two stages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from rich.console import Console
from rich.table import Table
from typing_extensions import override

from bench.result import Goal, Result, write_result
from headrace.core.endpoint import Role
from headrace.core.ids import RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.core.slo import SloTarget
from headrace.simulator.config import EngineSettings
from headrace.simulator.spec import EngineSpec
from headrace.simulator.trace import TraceRequest
from headrace.twin.placement import Placed
from headrace.twin.production import ProductionRouter
from headrace.twin.report import Report, summarise
from headrace.twin.run import run_placement
from router.catalog import DEFAULT_POLICY, make_policy
from router.decide import decide, tie_rng

ENGINES: Final = 8
DURATION_S: Final = 40.0
SEEDS: Final = (3,)
SLO: Final = SloTarget(ttft_s=2.0, tpot_s=0.015)
"""A first token as for chat, and tokens after it at three times the speed of reading aloud: where
the second is loose, one pool that does both is hard to beat."""

FAST_LINK: Final = 25e9
SLOW_LINK: Final = 2.5e9


@dataclass(frozen=True, slots=True)
class Shape:
    """Requests that share nothing; medians of log-normal draws, in tokens."""

    name: str
    prompt_tokens: int
    output_tokens: int
    rate_rps: float
    spread: float = 0.5


SHAPES: Final = (
    Shape("long prompt, short reply", 6_000, 60, 34.0),
    Shape("long prompt, long reply", 6_000, 400, 24.0),
    Shape("short prompt, long reply", 500, 400, 80.0),
)
"""Rates at which one pool misses the target for some requests, or, in the last, for none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the engines are used; ``prefill`` of them only compute prompts."""

    name: str
    prefill: int
    always: bool = False
    link_bytes_per_s: float = FAST_LINK


TOGETHER: Final = Plan("8 do both", 0)
PLANS: Final = (
    TOGETHER,
    Plan("2+6 where it pays", 2),
    Plan("2+6 always", 2, always=True),
    Plan("4+4 where it pays", 4),
    Plan("4+4 always", 4, always=True),
    Plan("2+6 where it pays, slow link", 2, link_bytes_per_s=SLOW_LINK),
    Plan("2+6 always, slow link", 2, always=True, link_bytes_per_s=SLOW_LINK),
)

GOALS: Final = (
    Goal("splitting where it pays", "gain_over_together_most_ratio", ">=", 1.2),
    Goal("never worse than always", "gain_over_always_least_ratio", ">=", 0.98),
)


class Counting(ProductionRouter):
    """The production router, with a count of what it split."""

    def __init__(self, seed: int) -> None:
        super().__init__(DEFAULT_POLICY, seed)
        self.seed = seed
        self.splits = 0

    @override
    def prefilled(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        self.splits += 1
        return super().prefilled(request_id, usage, now_s)


class Always(Counting):
    """Takes the best pair for every request, whatever one engine alone would cost."""

    @override
    def submit(self, request: RouteRequest, now_s: float) -> Sequence[Placed]:
        pairs = [c for c in self.router.candidates(request, now_s) if c.prefill_id is not None]
        rng = tie_rng(self.seed, request.request_id, 0)
        decision = decide(request, pairs, make_policy(DEFAULT_POLICY), rng)
        self.router.dispatched(request, decision, now_s)
        return (Placed(request, decision.endpoint_id, decision.candidate.prefill_id),)


@dataclass(frozen=True, slots=True)
class Cell:
    """One plan under one kind of request: what came of it, and the share that was split."""

    shape: Shape
    plan: Plan
    report: Report
    split_ratio: float

    @property
    def good_ratio(self) -> float:
        """Share of requests that met both targets."""
        return self.report.attainment_ratio


def requests(shape: Shape, seed: int) -> list[TraceRequest]:
    """Return Poisson arrivals of a shape for ``DURATION_S``."""
    rng = Random(seed)
    made: list[TraceRequest] = []
    at_s = rng.expovariate(shape.rate_rps)
    while at_s < DURATION_S:
        prompt = rng.lognormvariate(math.log(shape.prompt_tokens), shape.spread)
        output = rng.lognormvariate(math.log(shape.output_tokens), shape.spread)
        made.append(
            TraceRequest(
                at_s, min(32_000, max(64, round(prompt))), min(2_000, max(4, round(output)))
            )
        )
        at_s += rng.expovariate(shape.rate_rps)
    return made


def run(shape: Shape, plan: Plan, seed: int, spec: EngineSpec) -> Cell:
    """Serve the requests of a shape as planned."""
    workload = requests(shape, seed)
    rest = Role.DECODE if plan.prefill else Role.BOTH
    roles = [Role.PREFILL] * plan.prefill + [rest] * (ENGINES - plan.prefill)
    placement = Always(seed) if plan.always else Counting(seed)
    result = run_placement(
        workload,
        specs=[
            replace(spec, role=role, kv_transfer_bytes_per_s=plan.link_bytes_per_s)
            for role in roles
        ],
        placement=placement,
        seed=seed,
    )
    report = summarise(plan.name, result.records, slo=SLO, ideal_hit_ratio=0.0, span_s=DURATION_S)
    return Cell(shape, plan, report, placement.splits / len(workload))


def gains(cells: Sequence[Cell]) -> Iterator[tuple[str, float]]:
    """Yield the figures that the goals are about: goodput where it pays over the others'."""
    good = {(cell.shape.name, cell.plan.name): cell.good_ratio for cell in cells}
    chosen = [cell for cell in cells if cell.plan.prefill and not cell.plan.always]
    over_together = [c.good_ratio / good[c.shape.name, TOGETHER.name] for c in chosen]
    over_always = [
        c.good_ratio / good[c.shape.name, c.plan.name.replace("where it pays", "always")]
        for c in chosen
    ]
    yield "gain_over_together_most_ratio", max(over_together)
    yield "gain_over_together_least_ratio", min(over_together)
    yield "gain_over_always_most_ratio", max(over_always)
    yield "gain_over_always_least_ratio", min(over_always)


def figures(cells: Sequence[Cell]) -> dict[str, float]:
    """Return every number, by name."""
    found: dict[str, float] = dict(gains(cells))
    for cell in cells:
        under = f"{cell.shape.name}.{cell.plan.name}"
        report = cell.report
        found[f"{under}.good_ratio"] = cell.good_ratio
        found[f"{under}.split_ratio"] = cell.split_ratio
        found[f"{under}.ttft_mean_ms"] = report.ttft.mean_s * 1e3
        found[f"{under}.ttft_p99_ms"] = report.ttft.p99_s * 1e3
        found[f"{under}.tpot_mean_ms"] = report.tpot.mean_s * 1e3
        found[f"{under}.tpot_p99_ms"] = report.tpot.p99_s * 1e3
        found[f"{under}.e2e_mean_ms"] = report.e2e.mean_s * 1e3
    return found


def show(cells: Sequence[Cell], console: Console) -> None:
    """Draw one table per kind of request."""
    for shape in SHAPES:
        drawn = Table(title=f"{shape.name}, {shape.rate_rps:g} per second")
        drawn.add_column("engines")
        for name in ("split", "TTFT ms", "p99", "TPOT ms", "p99", "E2E s", "good"):
            drawn.add_column(name, justify="right")
        for cell in (cell for cell in cells if cell.shape == shape):
            ttft, tpot = cell.report.ttft, cell.report.tpot
            drawn.add_row(
                cell.plan.name,
                f"{cell.split_ratio:.0%}",
                *(f"{s * 1e3:,.0f}" for s in (ttft.mean_s, ttft.p99_s)),
                *(f"{s * 1e3:,.1f}" for s in (tpot.mean_s, tpot.p99_s)),
                f"{cell.report.e2e.mean_s:,.2f}",
                f"{cell.good_ratio:.0%}",
            )
        console.print(drawn)


def main() -> None:
    """Run every cell, show and keep what came of it."""
    console = Console()
    spec = EngineSettings(hardware="H100", model="Llama-3.1-8B").spec(record_events=False)
    (seed,) = SEEDS
    cells = [run(shape, plan, seed, spec) for shape in SHAPES for plan in PLANS]
    show(cells, console)
    write_result(
        Result(
            name="disaggregation",
            question="When does it pay to compute prompts on engines of their own?",
            command="make bench-disaggregation",
            figures=figures(cells),
            goals=GOALS,
            seeds=SEEDS,
            notes=(
                "In the twin: eight H100 with Llama-3.1-8B; good is a first token within "
                f"{SLO.ttft_s:g} s and {1e3 * (SLO.tpot_s or 0):g} ms per token after it. Requests "
                "share no prefixes. Links move 25 GB/s, the slow one 2.5 GB/s, into each engine. "
                "An engine that has computed a prompt frees it at once here; a real one keeps it "
                "until it has been fetched. Handing over costs no HTTP here.",
            ),
        )
    )


if __name__ == "__main__":
    main()
