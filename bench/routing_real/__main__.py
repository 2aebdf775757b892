"""``make bench-routing-real``: the gateway, smg and vllm-router over the same simulated engines.

The same chats go through each in turn, over real HTTP, each time with fresh engines.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.gateway.rivals import RIVALS as VERSIONS
from bench.result import RESULTS_DIR, Result, write_result
from bench.routing_real.contenders import NAMES, OURS, Contender, contenders
from bench.routing_real.figures import GOALS, SLO, found, line_of, report_of
from bench.routing_real.runs import DISTURBED_S, Fleet, Run, run_once
from bench.routing_real.workload import mixed
from headrace.simulator.trace import TraceRequest
from headrace.twin.table import table

CACHE: Final = Path(".cache/rivals")
LOGS: Final = Path(".cache/bench/routing-real")

HARDWARE: Final = "L40S"
MODEL: Final = "Llama-3.1-8B"
ENGINES: Final = 4
SEED: Final = 1
RATE_RPS: Final = 7.5
"""About 70 % of what the fleet sustains in the twin: near 10.7 three quarters meet the SLO."""

DURATION_S: Final = 80.0
TIME_SCALE: Final = 1.0
REPEATS: Final = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=RATE_RPS, help="requests per engine second")
    parser.add_argument("--duration", type=float, default=DURATION_S, help="in engine seconds")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--only", choices=NAMES, nargs="+", default=NAMES)
    parser.add_argument("--results", type=Path, default=RESULTS_DIR, help="where the file goes")
    args = parser.parse_args()
    if OURS not in args.only or len(args.only) < 2:
        parser.error(f"--only: name {OURS} and at least one rival")
    console, started_s = Console(), time.perf_counter()
    fleet = Fleet(HARDWARE, MODEL, ENGINES, TIME_SCALE, SEED)
    seeds = [SEED + repeat for repeat in range(args.repeats)]
    workloads = [mixed(args.rate, args.duration, seed) for seed in seeds]
    known = contenders(CACHE, model=MODEL, engines=ENGINES)
    chosen = [known[name] for name in args.only]
    console.print(
        f"{[len(each) for each in workloads]} requests in {args.duration:g} engine seconds over "
        f"{ENGINES} x {HARDWARE} at {TIME_SCALE:g}x; {len(chosen)} contenders"
    )
    runs = alternately(chosen, fleet, workloads)
    for repeat, workload in enumerate(workloads):
        reports = [report_of(name, made[repeat], workload) for name, made in runs.items()]
        title = f"Repeat {repeat + 1}: {len(workload)} requests, {ENGINES} x {HARDWARE}"
        console.print(table(reports, title=title, note="Engine seconds."))
    result = found(runs, workloads)
    facts = {
        "time_scale": TIME_SCALE,
        "rate_rps": args.rate,
        "wall_s": time.perf_counter() - started_s,
    }
    path = write_result(
        Result(
            name="routing-real",
            question="Over real HTTP, does our routing beat that of the rivals' own programs?",
            command="make bench-routing-real",
            figures=facts | result.figures,
            goals=GOALS,
            versions=VERSIONS,
            seeds=seeds,
            notes=notes(TIME_SCALE),
            spread=result.spread,
        ),
        args.results,
    )
    console.print(f"{path}: {facts['wall_s']:.0f} wall seconds; `make results` prints the goals")
    return 0


def alternately(
    chosen: Sequence[Contender], fleet: Fleet, workloads: Sequence[Sequence[TraceRequest]]
) -> dict[str, list[Run]]:
    """Give every contender the first workload, then the next: drift of the machine hits all."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in chosen}
    for workload in workloads:
        for contender in chosen:
            runs[contender.name].append(undisturbed(contender, fleet, workload))
    return runs


def undisturbed(contender: Contender, fleet: Fleet, workload: Sequence[TraceRequest]) -> Run:
    """Run once more when something else kept the machine busy."""
    run = run_once(contender, fleet, workload, LOGS)
    if run.disturbed:
        print(f"again, disturbed: {line_of(contender.name, run)}", file=sys.stderr, flush=True)
        run = run_once(contender, fleet, workload, LOGS)
    print(
        line_of(contender.name, run), *run.asked.failures, sep="\n  ", file=sys.stderr, flush=True
    )
    return run


def notes(time_scale: float) -> list[str]:
    return [
        f"{ENGINES} simulated engines, each {MODEL} on one {HARDWARE}, in one process, with KV "
        f"events over TCP; the same command for every contender, started afresh for every run.",
        "Workload: chats and agents (synthetic conversation and agents, half of the requests "
        "each), sent as chat messages that hold the engines' own earlier answers. Open loop, but "
        "a turn waits for the answer that it sends back (waited_turns): TTFT counts from sending.",
        f"At {time_scale:g}x: latencies are wall seconds times {time_scale:g}, so the routers' own "
        "milliseconds count that much too.",
        f"goodput_ratio: share of requests with TTFT <= {SLO.ttft_s:g} s and TPOT <= "
        f"{SLO.tpot_s:g} s. hit_ratio: cached over prompt tokens, as usage reports them.",
        "Rivals run from their wheels with their defaults but for the policy. They see the HTTP "
        "requests; we and vllm-router's kv_aware see KV events too.",
        "vllm-router kv_aware: its wheel does it over plain HTTP workers, without LMCache or gRPC. "
        "It finds event sources by itself only where workers answer /get_server_info, which "
        "neither vLLM nor the simulated engine does, so they are named (--kv-event-source, "
        "--kv-event-replay-source, --kv-event-model); it tokenises with files that "
        "VLLM_ROUTER_TOKENIZER names, here the simulated engine's tokens written as a "
        "tokenizer.json. Its debug log shows exact credits (credited_prefix_tokens).",
        "smg: its event-driven cache_aware needs workers that speak gRPC (SubscribeKvEvents); for "
        "HTTP workers the wheel has the approximate string tree only, which is what ran.",
        f"A run in which the client's own p99 lateness passes {DISTURBED_S * 1e3:.0f} wall ms is "
        "run once more; disturbed counts repeats whose second run was no better.",
    ]


if __name__ == "__main__":
    sys.exit(main())
