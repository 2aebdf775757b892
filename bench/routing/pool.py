"""Makes runs in worker processes, each once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from signal import SIG_IGN, SIGINT, signal
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
    with ProcessPoolExecutor(
        min(workers, len(todo)),
        get_context("fork"),
        initializer=signal,
        initargs=(SIGINT, SIG_IGN),  # an interruption is ours to handle
    ) as pool:
        futures = {pool.submit(figures_of, run): run for run in todo}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                cache.put(futures[future], _result(future, futures[future]))
                now_s = time.perf_counter()
                if now_s - said_s > _SAY_EVERY_S:
                    said_s = now_s
                    left_s = (now_s - started_s) / done * (len(todo) - done)
                    said = f"{what}: {done} of {len(todo)} runs, {left_s:.0f} s left"
                    print(said, file=sys.stderr)
        except BaseException:  # an interruption too must not wait for all the rest
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _result(future: Future[dict[str, float]], run: Run) -> dict[str, float]:
    try:
        return future.result()
    except Exception as error:
        error.add_note(f"in {run}")
        raise
