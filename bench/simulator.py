"""`make bench-simulator`: is the simulated engine right, and is it fast?

Right: the arrivals of every real vLLM log are replayed with the logged settings, and the
latencies compared. Fast: the Mooncake conversation hour over 16 engines on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.result import Goal, Result, write_result
from bench.simulator_logs import Replay, replay
from bench.simulator_points import Group, compare
from headrace.core.ids import RequestId
from headrace.simulator.engine import SimEngine, StepResult
from headrace.simulator.fleet import EngineActor
from headrace.simulator.presets import engine_spec
from headrace.simulator.steptime import COMPUTE_EFFICIENCY, MEMORY_EFFICIENCY
from headrace.simulator.trace import load_trace
from headrace.simulator.workload import engine_request
from headrace.simulator.world import World

TRACES: Final = Path("../shared/traces")
ENGINES: Final = 16
SEED: Final = 1
HOUR_GOAL_S: Final = 60.0

LIMITS: Final = (("e2e_mean", 0.05), ("ttft_mean", 0.10), ("ttft_p99", 0.20))
"""What the issue asks of every set: the absolute error of each stays below."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run it all, print the tables, write the result; 1 when there is nothing to compare with."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulator")
    parser.add_argument("--traces", type=Path, default=TRACES, help="folder of public traces")
    traces: Path = parser.parse_args(argv).traces
    sets = sorted(path.parent for path in traces.glob("real_vllm_logs/*/requests.jsonl"))
    if not sets:
        print(f"no logs under {traces}/real_vllm_logs", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 140)
    replays = [replay(folder) for folder in sets]
    console.print(log_table(replays))
    groups = compare(traces / "profiles" / "silicon_sample.csv")
    console.print(point_table(groups))
    figures = {
        "fitted.compute_efficiency_ratio": COMPUTE_EFFICIENCY,
        "fitted.memory_efficiency_ratio": MEMORY_EFFICIENCY,
    }
    goals: list[Goal] = []
    for item in replays:
        figures |= set_figures(item)
        goals += set_goals(item)
    for group in groups:
        figures |= point_figures(group)
    figures |= mooncake_hour(traces / "mooncake" / "conversation_trace.jsonl")
    goals.append(Goal("A5.speed", "mooncake_hour.wall_s", "<", HOUR_GOAL_S))
    result = Result(
        "simulator",
        "How far are the simulated engine's latencies from real vLLM's, and how fast is it?",
        "make bench-simulator",
        figures,
        goals,
        seeds=(SEED,),
        notes=(
            "Errors are simulated over logged minus one. Goals bound their absolute values.",
            "Two factors are fitted, to the two sets named here together; the points of "
            "aiconfigurator served only for the host's cost per step.",
        ),
    )
    path = write_result(result)
    met = sum(goal.judged(figures)["met"] for goal in goals)
    console.print(
        f"Mooncake hour over {ENGINES} engines: {figures['mooncake_hour.wall_s']:.1f} s, "
        f"{figures['mooncake_hour.requests_per_wall_s']:.0f} requests per second of wall time"
    )
    console.print(f"{met} of {len(goals)} goals met; written to {path}")
    return 0


def set_figures(item: Replay) -> dict[str, float]:
    """Figures of one set: what was logged, what was simulated, and the errors."""
    key = item.name.lower()
    figures = {f"{key}.real.{name}": value for name, value in item.real.summary().items()}
    figures |= {f"{key}.sim.{name}": value for name, value in item.simulated.summary().items()}
    for name, error in item.errors().items():
        figures[f"{key}.{name}_error_ratio"] = error
        figures[f"{key}.{name}_abs_error_ratio"] = abs(error)
    figures[f"{key}.preemptions"] = item.preemptions
    figures[f"{key}.steps"] = item.steps
    return figures


def set_goals(item: Replay) -> list[Goal]:
    """Goals of one set."""
    key = item.name.lower()
    return [
        Goal(f"A5.{name}.{key}", f"{key}.{name}_abs_error_ratio", "<", limit)
        for name, limit in LIMITS
    ]


def point_figures(group: Group) -> dict[str, float]:
    """Figures of one group of measured points."""
    key = f"points.{group.name}"
    return {
        f"{key}.count": len(group.tpot_errors),
        f"{key}.tpot_median_error_ratio": median(group.tpot_errors),
        f"{key}.tpot_median_abs_error_ratio": median(map(abs, group.tpot_errors)),
        f"{key}.ttft_median_error_ratio": median(group.ttft_errors),
        f"{key}.ttft_median_abs_error_ratio": median(map(abs, group.ttft_errors)),
    }


def mooncake_hour(path: Path) -> dict[str, float]:
    """Simulate the whole trace over equal engines, each request to the one with fewest."""
    started_s = time.perf_counter()
    trace = load_trace(path, SEED)
    spec = replace(engine_spec("H100", "Llama-3.1-8B"), max_num_seqs=256)
    world = World(SEED)
    served = 0

    def stepped(result: StepResult) -> None:
        nonlocal served
        served += len(result.finished)

    actors = [EngineActor(world, SimEngine(spec), stepped) for _ in range(ENGINES)]

    def arrive(number: int) -> None:
        actor = min(actors, key=lambda actor: actor.engine.waiting + actor.engine.running)
        actor.add(engine_request(trace[number], RequestId(str(number)), number, spec.block_size))

    for number, request in enumerate(trace):
        world.at(round(request.arrival_s * 1e9), partial(arrive, number))
    world.run()
    wall_s = time.perf_counter() - started_s
    assert served == len(trace), "requests were lost"
    steps = sum(actor.engine.counters.steps for actor in actors)
    return {
        "mooncake_hour.wall_s": wall_s,
        "mooncake_hour.requests_per_wall_s": served / wall_s,
        "mooncake_hour.steps_per_wall_s": steps / wall_s,
        "mooncake_hour.virtual_s": world.now_s,
    }


def log_table(replays: Sequence[Replay]) -> Table:
    """Every set's latencies and their errors."""
    table = Table(title="simulated against logged vLLM (error of mean, error of P99)")
    for heading in ("set", "latency", "logged mean", "simulated", "error", "P99 error"):
        table.add_column(heading, justify="left" if heading in ("set", "latency") else "right")
    for item in replays:
        real, simulated, errors = item.real.summary(), item.simulated.summary(), item.errors()
        for name in ("ttft", "tpot", "e2e"):
            table.add_row(
                item.name,
                name.upper(),
                f"{real[f'{name}_mean_ms']:,.1f} ms",
                f"{simulated[f'{name}_mean_ms']:,.1f} ms",
                f"{errors[f'{name}_mean']:+.1%}",
                f"{errors[f'{name}_p99']:+.1%}",
            )
    return table


def point_table(groups: Sequence[Group]) -> Table:
    """Errors on measured points that nothing but the host's cost was taken from."""
    table = Table(title="simulated against measured points (median error, median absolute error)")
    for heading in ("model, precision, card", "points", "TPOT", "|TPOT|", "TTFT", "|TTFT|"):
        table.add_column(heading, justify="left" if heading[0] == "m" else "right")
    for group in groups:
        table.add_row(
            group.name,
            str(len(group.tpot_errors)),
            f"{median(group.tpot_errors):+.1%}",
            f"{median(map(abs, group.tpot_errors)):.1%}",
            f"{median(group.ttft_errors):+.1%}",
            f"{median(map(abs, group.ttft_errors)):.1%}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
