"""`make bench-routing`: the router beside every rival, on the same requests, in the twin.

Interrupted, it goes on where it was: every run is kept in .cache/bench-routing, under the code and
the trace that it depends on. Anything less than the whole comparison is printed but not written.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.result import RESULTS_DIR, Result, write_result
from bench.routing import verdicts
from bench.routing.cache import RunCache
from bench.routing.capacity import rate_rps
from bench.routing.cells import FINALISTS, SUSTAINED_RATIO, Compared, Plan, compare
from bench.routing.contenders import CONTENDERS, OURS, STRONG, is_oracle
from bench.routing.fleets import FLEETS, MODEL
from bench.routing.picture import draw
from bench.routing.runs import WARM_UP_RATIO
from bench.routing.tables import csv_lines, tables
from bench.routing.workloads import TPOT_LIMIT_S, TRACES, WORKLOADS, missing, requests_of
from headrace.simulator.sessions import continued_ratio
from headrace.twin.ideal import ideal_hit_ratio

LOADS: Final = (50, 70, 85, 95)
SEEDS: Final = (1, 2, 3)
QUICK_LOADS: Final = (70, 95)
QUICK_POLICIES: Final = (
    OURS,
    "mooncake",
    "lmetric",
    "dynamo",
    "llumnix",
    "llm-d-precise",
    "least-requests",
)


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 200)
    started_s = time.perf_counter()
    absent = [trace for trace in args.traces if missing(trace)]
    for trace in absent:
        console.print(f"SKIPPED {trace}: {TRACES / WORKLOADS[trace].path} is not on this machine")
    plan = Plan(
        [trace for trace in args.traces if trace not in absent],
        args.fleets,
        args.loads or (QUICK_LOADS if args.quick else LOADS),
        args.policies or (QUICK_POLICIES if args.quick else list(CONTENDERS)),
        args.seeds or (SEEDS[:1] if args.quick else SEEDS),
        args.workers,
    )
    if not plan.traces:
        print("no trace to route", file=sys.stderr)
        return 1
    compared = compare(plan, RunCache.of_this_tree())
    for table in tables(compared):
        console.print(table)
    whole = plan.traces == [t for t in WORKLOADS if t not in absent] and (
        (list(plan.fleets), list(plan.loads), list(plan.policies), list(plan.seeds))
        == (list(FLEETS), list(LOADS), list(CONTENDERS), list(SEEDS))
    )
    wall_s = time.perf_counter() - started_s
    if whole or args.results is not None:
        path = write(plan, compared, wall_s, absent, args.results or RESULTS_DIR)
        console.print(f"{path}: {wall_s:.0f} s; `make results` prints the goals")
    else:
        console.print(f"{wall_s:.0f} s; a part only, so nothing is written (--results DIR writes)")
    return 0


def write(
    plan: Plan, compared: Compared, wall_s: float, absent: Sequence[str], folder: Path
) -> Path:
    """Write the result, the table of everyone, and the picture if it is small; return the first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "routing.csv").write_text("\n".join(csv_lines(compared)) + "\n")
    drawn = draw(compared, folder / "routing.png")
    figures = verdicts.figures(compared) | _facts(plan, compared) | {"wall_s": wall_s}
    return write_result(
        Result(
            name="routing",
            question="Does the router beat every rival's on the same requests?",
            command="make bench-routing",
            figures=figures,
            goals=verdicts.goals(),
            seeds=plan.seeds,
            notes=[*_notes(plan), *(f"Skipped, as its file is absent: {t}" for t in absent)]
            + ([] if drawn else ["The picture was too large to keep."]),
            spread=verdicts.spreads(compared),
        ),
        folder,
    )


def _facts(plan: Plan, compared: Compared) -> dict[str, float]:
    """What the workloads are, as run with the first seed, and what 100 % was."""
    found: dict[str, float] = {}
    for trace in plan.traces:
        place = (trace, plan.fleets[0], plan.seeds[0])
        rate = rate_rps(compared.capacity[place].step)
        requests = requests_of(trace, plan.seeds[0], rate, WORKLOADS[trace].count)
        found |= {
            f"{trace}.requests": len(requests),
            f"{trace}.prompt_mean_tokens": sum(r.prompt_tokens for r in requests) / len(requests),
            f"{trace}.output_mean_tokens": sum(r.output_tokens for r in requests) / len(requests),
            f"{trace}.ideal_hit_ratio": ideal_hit_ratio(requests),
        }
        if requests[0].session is not None:
            found[f"{trace}.continued_ratio"] = continued_ratio(requests)
    for (trace, fleet, seed), probe in compared.capacity.items():
        found[f"{trace}.{fleet}.seed{seed}.capacity_rps"] = rate_rps(probe.step)
    return found


def _notes(plan: Plan) -> list[str]:
    best = sorted({policy for policy in plan.policies if policy != OURS and not is_oracle(policy)})
    limits = ", ".join(f"{t} {WORKLOADS[t].ttft_limit_s:g} s" for t in plan.traces)
    fleets = ", ".join(f"{name}: {' '.join(FLEETS[name])}" for name in plan.fleets)
    return [
        f"Fleets of 8 simulated engines serving {MODEL}: {fleets}.",
        f"100 % is the highest rate (on a grid of 2.5 %) at which the best policy serves "
        f"{SUSTAINED_RATIO:.0%} of the requests within both targets; {', '.join(STRONG)} are tried "
        "with the first seed, the best of them with the others.",
        f"SLO: TPOT <= {TPOT_LIMIT_S * 1000:g} ms and TTFT <= {limits}.",
        f"The first {WARM_UP_RATIO:.0%} of a run's requests warm the caches and are not counted.",
        "A seed is another window of the trace, or other sessions. Ratios are geometric means "
        "over seeds of ours over the rival's on the same requests; the spread of a ratio is its "
        "95 % confidence interval by the t-distribution.",
        f"Rivals: {', '.join(best)}. All run with the first seed; the {FINALISTS} best of a cell "
        f"by mean TTFT and the {FINALISTS} best by goodput run with the others too, and the best "
        "rival of a metric is one of those.",
        "floor is the mean TTFT if each prompt were computed at once, alone, by the fastest card, "
        "which held all earlier prompts: no placement can do better. floor_ratio is that over the "
        "best rival's: a goal below it cannot be met.",
        "Oracle forms know the engines' true state without delay; they are shown in routing.csv, "
        "with the first seed only, and never count as the best rival.",
        "ideal_hit_ratio and continued_ratio are of a whole run, warm-up included, at 100 % on the "
        "first fleet; where sessions are replayed they grow as the rate falls, so they bound no "
        "other cell.",
        *(WORKLOADS[trace].note for trace in plan.traces),
    ]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=__doc__)
    parser.add_argument("--traces", type=_names(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--fleets", type=_names(FLEETS), default=list(FLEETS))
    parser.add_argument("--loads", type=_numbers, help="per cent, separated by commas")
    parser.add_argument("--policies", type=_names(CONTENDERS))
    parser.add_argument("--seeds", type=_numbers)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="one seed, two loads, few policies")
    parser.add_argument("--results", type=Path, help="where to write a part of the comparison")
    return parser


def _names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """Return what reads names separated by commas, each one of ``known``."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r}; known: {', '.join(known)}")
        return names

    return read


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
