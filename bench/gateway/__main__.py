"""`make bench-gateway`: four routers, one engine, one load, in turn, in one run of minutes."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from bench.gateway.bodies import conversations, long_prompts
from bench.gateway.cases import (
    CASES,
    LOAD_CORE,
    ROUTER_CORE,
    Case,
    Measured,
    check_answers,
    measure,
)
from bench.gateway.load import run_load
from bench.gateway.process import Child, free_port
from bench.gateway.report import GOALS, Runs, Spread, figures_of, print_tables
from bench.gateway.rivals import RIVALS, Contender, contenders
from bench.gateway.upstream import GAP_US, compile_upstream, upstream
from bench.result import Result, version_of, write_result

CACHE = Path(__file__).parents[2] / ".cache"
SEED = 1
MIN_ROUNDS = 3
MAX_DISTURBED = 0.1
MAX_REPEATS = 20
"""Measurements repeated in all: they bound the length of the run, not of one figure."""
NOTES = (
    f"router on core {ROUTER_CORE}; engine and wrk on core {LOAD_CORE}; loopback; HTTP/1.1",
    f"a stream is 64 chunks, one every {GAP_US / 1e3:g} ms for all streams at the same tick",
    "CPU is user + system time of the router's whole process tree, of completed requests",
    "vllm-router asks engines to tokenise each prompt (/render, /tokenize); here they answer 404, "
    "which costs it less than being answered (see asked)",
    f"what other programs took over {MAX_DISTURBED:.0%} of the machine from is measured again, "
    f"{MAX_REPEATS} times at most in all; their part in what was kept is the figure disturbed",
    "ratios are to the cheaper of the two Rust routers, at 32 connections unless they say c1",
)


def write_bodies(directory: Path) -> None:
    """Write the pools that wrk reads."""
    pools = {
        "plain": conversations(SEED, 256, stream=False),
        "stream": conversations(SEED, 256, stream=True),
        "long": long_prompts(SEED, 4),
    }
    for name, bodies in pools.items():
        (directory / f"{name}.txt").write_text("\n".join(bodies) + "\n")


@dataclass(frozen=True, slots=True)
class Bench:
    """What one run holds: where the pools are and the engine's ports."""

    console: Console
    cases: Sequence[Case]
    work: Path
    ports: tuple[int, int]

    def ceiling(self) -> dict[str, float]:
        """Measure the engine without a router, by case, in requests per second."""
        return {
            f"upstream.{case.name}.rps": run_load(
                self.ports[0],
                self.work / f"{case.bodies}.txt",
                connections=case.connections,
                duration_s=1,
                core=ROUTER_CORE,
            ).rps
            for case in self.cases
        }

    def start(self, contender: Contender, stack: ExitStack) -> tuple[Child, int]:
        """Start a router, prove that it answers rightly, and warm its caches and pools."""
        port = free_port()
        argv = contender.argv(port, [f"http://127.0.0.1:{p}" for p in self.ports])
        log = self.work / f"{contender.name}.log"
        router = stack.enter_context(Child(contender.name, argv, log, core=ROUTER_CORE))
        router.wait_ready(f"http://127.0.0.1:{port}{contender.ready_path}")
        check_answers(contender.name, port, self.ports[0], self.work)
        for case in self.cases:
            measure(router, port, self.ports[0], replace(case, duration_s=1), self.work)
        return router, port

    def rounds(self, routers: Mapping[str, tuple[Child, int]], count: int) -> Runs:
        """Measure every router under every case, in turn, ``count`` times.

        What was disturbed by other programs is measured again, as long as there are repeats left.
        """
        runs: dict[tuple[str, str], list[Measured]] = defaultdict(list)
        repeats = MAX_REPEATS
        for number, case in itertools.product(range(1, count + 1), self.cases):
            for name, (router, port) in routers.items():
                found = measure(router, port, self.ports[0], case, self.work)
                while found.disturbed > MAX_DISTURBED and repeats:
                    repeats -= 1
                    found = measure(router, port, self.ports[0], case, self.work)
                runs[name, case.name].append(found)
                self.console.print(
                    f"round {number} {case.name:12} {name:12} {found.cpu_us:9.1f} us "
                    f"{found.rps:8.0f} req/s  p50 {found.p50_ms:8.2f}  p99 {found.p99_ms:8.2f} ms"
                    f"  others {found.disturbed:.0%}  {found.faults or ''}"
                )
        return runs


def run(
    console: Console, only: Sequence[str], rounds: int, cases: Sequence[Case]
) -> tuple[dict[str, float], Spread]:
    """Start everything, take the rounds, stop everything; return figures and their spread."""
    chosen = [c for c in contenders(CACHE / "rivals") if not only or c.name in only]
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        write_bodies(work)
        ports = (free_port(), free_port())
        engine = upstream(compile_upstream(work), list(ports), work / "engine.log", core=LOAD_CORE)
        stack.enter_context(engine).wait_ready(f"http://127.0.0.1:{ports[0]}/health")
        bench = Bench(console, cases, work, ports)
        ceiling = bench.ceiling()
        routers = {contender.name: bench.start(contender, stack) for contender in chosen}
        runs = bench.rounds(routers, rounds)
        rss_mib = {name: router.rss_bytes() / 2**20 for name, (router, _) in routers.items()}
    figures, spread = figures_of(runs, rss_mib)
    return {**figures, **ceiling}, spread


def write(console: Console, figures: Mapping[str, float], spread: Spread) -> None:
    """Write the result file."""
    result = Result(
        name="gateway",
        question="What does the gateway cost per request beside Rust routers?",
        command="make bench-gateway",
        figures=figures,
        goals=GOALS,
        versions={**RIVALS, "uvloop": version_of("uvloop"), "uvicorn": version_of("uvicorn")},
        seeds=[SEED],
        notes=NOTES,
        spread=spread,
    )
    console.print(f"written: {write_result(result)}", soft_wrap=True)


def main(argv: Sequence[str]) -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="contenders to run; writes nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=[], help="cases to run; writes nothing")
    options = parser.parse_args(argv)
    cases = [case for case in CASES if not options.cases or case.name in options.cases]
    console = Console(width=150)
    figures, spread = run(console, options.only, options.rounds, cases)
    print_tables(console, figures, spread)
    if options.only or options.rounds < MIN_ROUNDS or len(cases) < len(CASES):
        console.print("partial run: nothing written")
    else:
        write(console, figures, spread)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
