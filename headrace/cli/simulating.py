"""What ``headrace twin`` does: load, simulate each policy, report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from headrace.cli.output import Run, check_writable, write
from headrace.core.slo import SloTarget
from headrace.simulator.presets import engine_spec
from headrace.simulator.spec import EngineSpec
from headrace.twin.ideal import ideal_hit_ratio
from headrace.twin.production import ProductionRouter
from headrace.twin.report import offered_span_s, summarise
from headrace.twin.run import run_placement
from headrace.twin.workloads import WorkloadChoice
from router.catalog import DEFAULT_POLICY, make_policy
from router.held import HoldLimits
from router.router import Options


@dataclass(frozen=True, slots=True)
class Fleet:
    """Equal engines: how many, of which card and model, over how many cards each."""

    engines: int
    hardware: str
    model: str
    tp: int | None

    def spec(self) -> EngineSpec:
        """Return one of them.

        Raises:
            ConfigError: unknown card or model, or the model does not fit.

        """
        spec = engine_spec(self.hardware, self.model)
        return replace(spec, tp=self.tp) if self.tp is not None else spec


@dataclass(frozen=True, slots=True)
class Simulating:
    """One comparison as asked for; no policies means the default one, no limit the router's."""

    choice: WorkloadChoice
    fleet: Fleet
    policies: tuple[str, ...]
    kv_events: bool
    hold_requests: int | None
    slo: SloTarget
    json_path: Path | None
    plot_path: Path | None

    def placement(self, policy: str) -> ProductionRouter:
        """Return a new router that places by ``policy``."""
        hold = HoldLimits()
        if self.hold_requests is not None:
            hold = replace(hold, requests=self.hold_requests)
        return ProductionRouter(
            policy, self.choice.seed, kv_events=self.kv_events, options=Options(hold=hold)
        )


def run(asked: Simulating) -> bool:
    """Simulate and report; returns whether every request was served.

    Raises:
        ConfigError: if something asked for cannot be done.

    """
    check_writable(asked.json_path, "json")
    check_writable(asked.plot_path, "plot")
    policies = asked.policies or (DEFAULT_POLICY,)
    for policy in policies:
        make_policy(policy)  # an unknown name stops us before anything is simulated
    spec = asked.fleet.spec()
    kv_tokens = spec.blocks * spec.block_size
    workload = asked.choice.load()
    ideal, span_s = ideal_hit_ratio(workload), offered_span_s(workload)
    runs: list[Run] = []
    digests: dict[str, str] = {}
    wall_s = 0.0
    console = Console(stderr=True)
    for policy in dict.fromkeys(policies):
        with console.status(f"simulating {len(workload)} requests with {policy}"):
            result = run_placement(
                workload,
                specs=[spec] * asked.fleet.engines,
                placement=asked.placement(policy),
                seed=asked.choice.seed,
            )
        report = summarise(
            policy, result.records, slo=asked.slo, ideal_hit_ratio=ideal, span_s=span_s
        )
        runs.append(Run(report, result.records))
        digests[policy] = result.digest
        wall_s += result.wall_s
    fleet = f"{asked.fleet.engines} x {spec.hardware.name} tp={spec.tp} {spec.model.name}"
    write(
        runs,
        title=f"{asked.choice.name} in virtual time over {fleet}",
        note=f"In engine seconds; simulated in {wall_s:.1f} wall seconds.",
        facts={
            "name": "twin",
            "fleet": {
                "engines": asked.fleet.engines,
                "hardware": spec.hardware.name,
                "model": spec.model.name,
                "tp": spec.tp,
                "kv_tokens": kv_tokens,
            },
            "router": {"kv_events": asked.kv_events, "hold_requests": asked.hold_requests},
            "workload": asked.choice.facts(),
            "slo": {"ttft_s": asked.slo.ttft_s, "tpot_s": asked.slo.tpot_s},
            "digests": digests,
            "wall_s": round(wall_s, 3),
        },
        json_path=asked.json_path,
        plot_path=asked.plot_path,
    )
    return all(run.report.failed == 0 for run in runs)
