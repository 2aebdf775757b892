"""Makes runs in worker processes, each once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Final

from bench.routing.cache import RunCache
from bench.routing.runs import Run, figures_of

_SAY_EVERY_S: Final = 30.0


def figures_by_run(
    runs: Iterable[Run], cache: RunCache, workers: int, what: str
) -> dict[Run, dict[str, float]]:
    """Return the figures of every run: from the cache, or made now and put there.

    Args:
        runs: Repeats are made once.
        cache: Learns of every run as soon as it is made.
        workers: Processes, >= 1.
        what: What the runs are for; said while they are made.

    """
    wanted = list(dict.fromkeys(runs))
    todo = [run for run in wanted if cache.get(run) is None]
    # neighbours in this order have the same workload, which a worker keeps
    todo.sort(key=lambda run: (run.trace, run.seed, run.rate_rps, run.fleet))
    if todo:
        _make(todo, cache, workers, what)
    return {run: found for run in wanted if (found := cache.get(run)) is not None}


def _make(todo: list[Run], cache: RunCache, workers: int, what: str) -> None:
    started_s = said_s = time.perf_counter()
    # forked, not spawned: whatever happens to the files meanwhile, the workers have our code
    with ProcessPoolExecutor(min(workers, len(todo)), get_context("fork")) as pool:
        futures = {pool.submit(figures_of, run): run for run in todo}
        for done, future in enumerate(as_completed(futures), start=1):
            try:
                cache.put(futures[future], future.result())
            except Exception as error:
                pool.shutdown(wait=False, cancel_futures=True)
                error.add_note(f"in {futures[future]}")
                raise
            now_s = time.perf_counter()
            if now_s - said_s > _SAY_EVERY_S:
                said_s = now_s
                left_s = (now_s - started_s) / done * (len(todo) - done)
                print(f"{what}: {done} of {len(todo)} runs, {left_s:.0f} s left", file=sys.stderr)
