"""`make bench-replicas`: do several gateway replicas route as well as one?

In the twin: the production routers of 1, 2, 4 and 8 replicas over one fleet, with their messages
under way for a while, and one of them ended and started again. Then, over a real Redis: how long
messages are under way, what they cost, and how soon a replica that starts knows what is in flight.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from types import MappingProxyType
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.replicas_redis import measure, redis_binary
from bench.replicas_twin import Crash, Replicas, Setup
from bench.result import Goal, Result, version_of, write_result
from bench.routing.fleets import FLEETS, MODEL, specs_of
from bench.routing.workloads import missing, requests_of
from headrace.core.ids import RequestId
from headrace.core.record import ServedRecord
from headrace.twin.run import run_placement

FLEET: Final = "h100"
FIRST_SEED: Final = 51
"""Earlier ones served to choose how requests are called back, so they prove nothing of it."""

SEEDS: Final = 12
"""One seed moves by several per cent as ties fall, three still by two, which is the goal."""

WARM_UP_RATIO: Final = 0.2
"""Share of a run's requests, the first, that warm the caches and are not counted."""


@dataclass(frozen=True, slots=True)
class Load:
    """A workload at a rate; the first replica ends after ``crash_s`` and is watched for as long."""

    name: str
    rate_rps: float
    count: int
    crash_s: float
    watch_s: float


LOADS: Final = (
    Load("mooncake-conversation", 9.5, 1_000, 40.0, 40.0),
    Load("agents-miniswe", 45.0, 1_500, 12.0, 12.0),
)
"""About 70 % of what one replica sustains (`make bench-routing`)."""

SETUPS: Final[Mapping[str, Setup]] = MappingProxyType(
    {
        "1": Setup(1),
        "1_other_ties": Setup(1, seed=1_001),
        **{str(count): Setup(count) for count in (2, 4, 8)},
        "8_at_2ms": Setup(8, delay_s=0.002),
        **{f"{count}_alone": Setup(count, shared=False) for count in (4, 8)},
        "4_restart": Setup(4),
    }
)
"""What is run, by name; the seed is added to."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of one run; ``came_to`` is the replica of each request."""

    records: Sequence[ServedRecord]
    came_to: Mapping[RequestId, int]
    messages: int
    message_bytes: int
    called_back: int


Runs = dict[tuple[str, int], Done]  # by setup and seed


def main(argv: Sequence[str] | None = None) -> int:
    """Run it all, print a table, write the result; 1 when something it needs is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds")
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + parser.parse_args(argv).seeds))
    loads = [load for load in LOADS if not missing(load.name)]
    binary = redis_binary()
    if not loads or binary is None:
        print("needs redis-server, and the traces in ../shared/traces", file=sys.stderr)
        return 1
    figures = measure(binary)
    goals = [
        Goal("A2.warm", "redis.process_start_to_warm_max_s", "<=", 2.0),
        Goal("lag", "redis.dispatch_to_apply_p99_s", "<=", 0.05),
    ]
    spread: dict[str, tuple[float, float]] = {}
    for load in loads:
        runs = {(name, seed): done for name, seed, done in _runs(load, seeds)}
        figures |= _compared(load, runs, seeds, spread)
        figures |= _restarted(load, runs, seeds)
        goals += _goals(load)
    result = Result(
        "replicas",
        "Do several gateway replicas over one fleet route as well as one?",
        "make bench-replicas",
        figures,
        goals,
        versions={"redis": version_of("redis")},
        seeds=seeds,
        notes=_notes(),
        spread=spread,
    )
    path = write_result(result)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_table(loads, figures))
    met = sum(goal.judged(figures)["met"] for goal in goals)
    console.print(f"{met} of {len(goals)} goals met; written to {path}")
    return 0


def _runs(load: Load, seeds: Sequence[int]) -> Iterator[tuple[str, int, Done]]:
    of = [(name, seed) for seed in seeds for name in SETUPS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for (name, seed), done in zip(of, pool.map(partial(_run, load), of), strict=True):
            print(
                f"{load.name} {name} seed {seed}: TTFT {_ttft_s(done.records) * 1e3:.1f} ms, "
                f"hit ratio {_hit_ratio(done.records):.4f}",
                flush=True,
            )
            yield name, seed, done


def _run(load: Load, of: tuple[str, int]) -> Done:
    name, seed = of
    workload = requests_of(load.name, seed, load.rate_rps, load.count)
    crash = Crash(load.crash_s) if name.endswith("restart") else None
    setup = SETUPS[name]
    placement = Replicas(replace(setup, seed=setup.seed + seed, crash=crash))
    specs = specs_of(FLEET)
    result = run_placement(workload, specs=specs, placement=placement, seed=seed)
    return Done(
        result.records[int(WARM_UP_RATIO * len(workload)) :],
        placement.came_to,
        placement.messages,
        placement.message_bytes,
        placement.called_back,
    )


def _ttft_s(records: Sequence[ServedRecord]) -> float:
    return fmean(one.ttft_s for one in records)


def _hit_ratio(records: Sequence[ServedRecord]) -> float:
    prompt_tokens = sum(one.usage.prompt_tokens for one in records)
    return sum(one.usage.cached_tokens for one in records) / prompt_tokens


def _compared(
    load: Load, runs: Runs, seeds: Sequence[int], spread: dict[str, tuple[float, float]]
) -> dict[str, float]:
    """Figures of each setup, and beside those of one replica over the same requests."""
    figures: dict[str, float] = {}

    def all_seeds(name: str) -> list[ServedRecord]:
        return [one for seed in seeds for one in runs[name, seed].records]

    base = all_seeds("1")
    for name in SETUPS:
        key, records = f"{load.name}.{name}", all_seeds(name)
        figures[f"{key}.ttft_mean_s"] = _ttft_s(records)
        figures[f"{key}.hit_ratio"] = _hit_ratio(records)
        if name == "1":
            continue
        figures[f"{key}.ttft_ratio"] = _ttft_s(records) / _ttft_s(base)
        figures[f"{key}.hit_ratio_ratio"] = _hit_ratio(records) / _hit_ratio(base)
        called_back = sum(runs[name, seed].called_back for seed in seeds)
        figures[f"{key}.called_back_ratio"] = called_back / (len(seeds) * load.count)
        each = [
            _ttft_s(runs[name, seed].records) / _ttft_s(runs["1", seed].records) for seed in seeds
        ]
        spread[f"{key}.ttft_ratio"] = (min(each), max(each))
    busiest = runs["8", seeds[0]]
    figures[f"{load.name}.8.messages_per_request"] = busiest.messages / load.count
    figures[f"{load.name}.8.message_bytes"] = busiest.message_bytes / max(1, busiest.messages)
    return figures


def _restarted(load: Load, runs: Runs, seeds: Sequence[int]) -> dict[str, float]:
    """Figures of the requests that came to a replica in the time after its restart.

    They are set beside the same requests where it was never restarted.
    """
    after: list[ServedRecord] = []
    never: list[ServedRecord] = []
    for seed in seeds:
        done = runs["4_restart", seed]
        calm = {one.request_id: one for one in runs["4", seed].records}
        from_s = load.crash_s + Crash(load.crash_s).down_s
        for one in done.records:
            in_time = from_s <= one.arrival_s < from_s + load.watch_s
            if in_time and done.came_to[one.request_id] == 0:
                after.append(one)
                never.append(calm[one.request_id])
    key = f"{load.name}.restart"
    return {
        f"{key}.requests": len(after),
        f"{key}.watched_s": load.watch_s,
        f"{key}.ttft_ratio": _ttft_s(after) / _ttft_s(never),
        f"{key}.hit_ratio_ratio": _hit_ratio(after) / _hit_ratio(never),
    }


def _goals(load: Load) -> list[Goal]:
    return [
        goal
        for count in (2, 4, 8)
        for goal in (
            Goal(f"A2.ttft.{load.name}.{count}", f"{load.name}.{count}.ttft_ratio", "<=", 1.02),
            Goal(
                f"A2.hits.{load.name}.{count}", f"{load.name}.{count}.hit_ratio_ratio", ">=", 0.98
            ),
        )
    ]


def _notes() -> list[str]:
    rates = ", ".join(f"{load.name} at {load.rate_rps:g} requests/s" for load in LOADS)
    return [
        f"Twin: {len(FLEETS[FLEET])} H100, {MODEL}; {rates}; each request comes to a replica by "
        f"chance; the first {WARM_UP_RATIO:.0%} of a run is not counted. Ratios are to one replica "
        "over the same requests, all seeds together; their spread is over single seeds.",
        "Messages are applied 20 ms after they are sent (2 ms in the setups that say so), and a "
        "replica sends one every 10 ms at most. `alone`: replicas tell each other nothing.",
        "A single seed moves by several per cent by chance: where a ratio is within the spread of "
        "`1_other_ties` or of its own seeds, it says no more than that.",
        "Seeds up to 46 served to choose how requests are called back; none is here.",
        "`1_other_ties` is one replica that breaks ties otherwise: what chance alone does.",
        "`called_back_ratio` is the share of requests that were called back, as another replica's "
        "had come to their engine before, unseen.",
        "`restart`: one of four replicas ends, loses all, and begins again 0.5 s later, by the "
        "engines' replay of KV events and the others' snapshots.",
        "Redis: two processes on this machine; from a dispatch in one to its entry in the other's "
        "books. Start to warm begins with starting the Python process.",
    ]


def _table(loads: Sequence[Load], figures: Mapping[str, float]) -> Table:
    table = Table(title="Several replicas beside one")
    for column in ("workload", "replicas", "TTFT mean", "beside one", "hit ratio", "beside one"):
        table.add_column(column)
    for load in loads:
        for name in SETUPS:
            key = f"{load.name}.{name}"
            table.add_row(
                load.name,
                name,
                f"{figures[f'{key}.ttft_mean_s'] * 1e3:.1f} ms",
                f"{figures.get(f'{key}.ttft_ratio', 1.0):.3f}",
                f"{figures[f'{key}.hit_ratio']:.4f}",
                f"{figures.get(f'{key}.hit_ratio_ratio', 1.0):.3f}",
            )
    return table


if __name__ == "__main__":
    sys.exit(main())
