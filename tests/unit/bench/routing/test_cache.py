from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.routing.cache import RunCache
from bench.routing.runs import Run

RUN = Run("agents-miniswe", "h100", 10.0, "mooncake", 1, 100)
OURS = replace(RUN, policy="headrace")
CODE = {True: "ours", False: "rivals"}


def test_a_run_is_found_again_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "runs.jsonl"
    RunCache(path, CODE).put(RUN, {"ttft_mean_s": 0.25})
    assert RunCache(path, CODE).get(RUN) == {"ttft_mean_s": 0.25}


def test_any_other_run_is_unknown(tmp_path: Path) -> None:
    cache = RunCache(tmp_path / "runs.jsonl", CODE)
    cache.put(RUN, {"ttft_mean_s": 0.25})
    for other in (replace(RUN, seed=2), replace(RUN, rate_rps=10.1), replace(RUN, count=99), OURS):
        assert cache.get(other) is None


def test_a_change_of_our_code_keeps_the_rivals_runs_and_forgets_ours(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    before = RunCache(path, CODE)
    before.put(RUN, {"ttft_mean_s": 0.25})
    before.put(OURS, {"ttft_mean_s": 0.2})
    after = RunCache(path, {**CODE, True: "ours, changed"})
    assert after.get(RUN) == {"ttft_mean_s": 0.25}
    assert after.get(OURS) is None


def test_a_line_cut_short_by_an_interruption_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    RunCache(path, CODE).put(RUN, {"ttft_mean_s": 0.25})
    with path.open("a") as file:
        file.write('{"key": "abc", "figu')
    assert RunCache(path, CODE).get(RUN) == {"ttft_mean_s": 0.25}


def test_the_cache_of_a_tree_is_stable(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    RunCache.of_this_tree(path).put(RUN, {"ttft_mean_s": 0.25})
    assert RunCache.of_this_tree(path).get(RUN) == {"ttft_mean_s": 0.25}
