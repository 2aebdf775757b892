"""`make bench-decide`: what one routing decision costs, by endpoints and prompt; and the index.

A decision here is the whole of ``Router.choose``: look the prompt's blocks up for all endpoints at
once, gather what is known of each, cost and rank them. Hashing comes before it (``bench-tokens``).
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from random import Random
from statistics import mean, quantiles
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.index import Chain, IndexSize, chains, measure
from bench.result import Goal, Result, write_result
from headrace.core.endpoint import BlockScheme, EndpointView, Speed
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from kvcache.changes import Tier
from router.router import Router

ENDPOINTS: Final = (8, 64, 100, 256, 1_000)
PROMPT_TOKENS: Final = (1_024, 32_768, 131_072)
BLOCKS: Final = 5_000_000
SEED: Final = 1
DECISIONS: Final = 400
WARM_UP: Final = 20
INFLIGHT_PER_ENDPOINT: Final = 8

MODEL: Final = ModelName("m")
SCHEME: Final = BlockScheme(16, "sha256")

GOALS: Final = (
    Goal("A3.p99", "endpoints_100.tokens_32768.wall_p99_ms", "<=", 1.0),
    Goal("A3.index.lookup", "ratio.lookup_vs_dict", "<=", 1.0),
    Goal("A3.index.bytes", "ratio.bytes_vs_dict", "<=", 1.0),
)


def main() -> int:
    console = Console()
    found: dict[str, float] = {}
    table = Table(title=f"One decision, {BLOCKS / 1e6:g} million indexed block-endpoints")
    for title in ("endpoints", "prompt tokens", "p50 ms", "p99 ms", "CPU ms"):
        table.add_column(title, justify="right")
    for endpoints in ENDPOINTS:
        router, kept = filled(endpoints)
        for tokens in PROMPT_TOKENS:
            one = timed(router, kept, tokens)
            found |= {f"endpoints_{endpoints}.tokens_{tokens}.{k}": v for k, v in one.items()}
            table.add_row(
                str(endpoints),
                f"{tokens:,}",
                f"{one['wall_p50_ms']:.3f}",
                f"{one['wall_p99_ms']:.3f}",
                f"{one['cpu_mean_ms']:.3f}",
            )
        del router, kept
        gc.unfreeze()
        gc.collect()
    console.print(table)
    index = measure(IndexSize())
    found |= index
    found |= {
        "ratio.lookup_vs_dict": index["index.look_up_p50_us"] / index["naive.look_up_p50_us"],
        "ratio.bytes_vs_dict": index["index.bytes_per_block_endpoint"]
        / index["naive.bytes_per_block_endpoint"],
    }
    rows = Table("the index", "value", title="Beside a naive dict")
    for name, value in index.items():
        rows.add_row(name, f"{value:,.4g}")
    console.print(rows)
    path = write_result(
        Result(
            name="decide",
            question="What does a routing decision cost, and what does the prefix index?",
            command="make bench-decide",
            figures=found,
            goals=GOALS,
            seeds=[SEED],
            notes=[
                "A decision: Router.choose with the default policy; each endpoint has "
                f"{INFLIGHT_PER_ENDPOINT} requests in flight, prompts share a part with what is "
                "indexed. Blocks are of 16 tokens. Wall times include other programs' turns.",
                "CPU: of the process, mean over all decisions.",
            ],
        )
    )
    console.print(f"{path}: `make results` prints the goals")
    return 0


def filled(endpoints: int) -> tuple[Router, Sequence[Chain]]:
    """Return a router over so many endpoints that together hold ``BLOCKS``, and some prompts."""
    router = Router()
    ids = [EndpointId(f"e{number:04d}") for number in range(endpoints)]
    speed = Speed(20_000.0, 450_000)
    router.set_endpoints(
        EndpointView(name, f"http://{name}", (MODEL,), speed=speed) for name in ids
    )
    for name in ids:
        router.prefixes.scheme(name, SCHEME)
    kept: list[Chain] = []
    for number, chain in enumerate(chains(SEED, BLOCKS, endpoints, 4_000)):
        for blocks, parent in chain.events():
            router.prefixes.stored(ids[chain.endpoint], Tier.GPU, blocks, parent)
        if number % 4 == 0:
            kept.append(chain)
    for number in range(endpoints * INFLIGHT_PER_ENDPOINT):
        request = RouteRequest(RequestId(f"busy{number}"), MODEL, 2_000)
        router.dispatched(request, router.choose(request, 0.0), 0.0)
    gc.collect()
    gc.freeze()
    return router, kept


def timed(router: Router, kept: Sequence[Chain], tokens: int) -> dict[str, float]:
    """Return what decisions on prompts of that length take."""
    rng = Random(SEED)
    count = tokens // SCHEME.block_tokens
    requests = []
    for number in range(DECISIONS + WARM_UP):
        known = rng.choice(kept).blocks[:count]
        blocks = [*known, *(rng.getrandbits(64) for _ in range(count - len(known)))]
        requests.append(
            RouteRequest(RequestId(f"r{number}"), MODEL, tokens, engine_blocks={SCHEME: blocks})
        )
    walls_ms: list[float] = []
    cpu_s = 0.0
    for number, request in enumerate(requests):
        cpu, begun_s = time.process_time(), time.perf_counter()
        router.choose(request, 1.0)
        if number >= WARM_UP:
            walls_ms.append((time.perf_counter() - begun_s) * 1e3)
            cpu_s += time.process_time() - cpu
    cuts = quantiles(walls_ms, n=100)
    return {
        "wall_mean_ms": mean(walls_ms),
        "wall_p50_ms": cuts[49],
        "wall_p99_ms": cuts[98],
        "cpu_mean_ms": cpu_s / DECISIONS * 1e3,
    }


if __name__ == "__main__":
    sys.exit(main())
