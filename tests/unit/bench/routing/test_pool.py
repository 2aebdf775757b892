from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.routing import pool
from bench.routing.cache import RunCache
from bench.routing.pool import figures_by_run
from bench.routing.runs import Run

RUN = Run("agents-miniswe", "h100", 10.0, "mooncake", 1, 100)


def fake(run: Run) -> dict[str, float]:
    """Stands for a run; forked workers see it in place of the real one."""
    if run.seed == 13:
        raise ValueError("no luck")
    return {"seed": run.seed}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunCache:
    monkeypatch.setattr(pool, "figures_of", fake)
    return RunCache(tmp_path / "runs.jsonl", {True: "ours", False: "rivals"})


def test_every_run_is_made_once_and_kept(cache: RunCache, tmp_path: Path) -> None:
    runs = [replace(RUN, seed=seed) for seed in (1, 2, 3, 2)]
    found = figures_by_run(runs, cache, 2, "test")
    assert found == {run: {"seed": run.seed} for run in runs}
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 3


def test_what_is_kept_is_not_made_again(cache: RunCache) -> None:
    cache.put(replace(RUN, seed=13), {"seed": 7})  # making it would fail
    assert figures_by_run([replace(RUN, seed=13)], cache, 2, "test")[replace(RUN, seed=13)] == {
        "seed": 7
    }


def test_a_run_that_fails_is_named_and_the_others_are_kept(cache: RunCache) -> None:
    bad = replace(RUN, seed=13)
    with pytest.raises(ValueError, match="no luck") as caught:
        figures_by_run([RUN, bad], cache, 1, "test")
    assert caught.value.__notes__ == [f"in {bad}"]
    assert cache.get(RUN) == {"seed": 1}
