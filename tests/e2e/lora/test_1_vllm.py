"""Three adapters on two real vLLM workers, each of which is allowed one at a time."""

from __future__ import annotations

import time

import pytest

from tests.e2e.lora.conftest import NAMES, Adapted, Found

pytestmark = pytest.mark.vllm

SHORT = "def load(self, name: str) -> None:"
LONG = "The router of one gateway: endpoints, ledger and prefixes behind one choice. " * 40
"""Some 800 tokens: many whole blocks, all of which the prefix cache keeps."""


def test_each_is_loaded_by_its_first_request_and_answers_in_its_own_way(
    adapted: Adapted, found: Found
) -> None:
    assert adapted.loaded() == [{}, {}]
    base = adapted.ask("small", SHORT)
    answers = {}
    loaded = 0
    slowest_s = 0.0
    for name in NAMES:
        started_s = time.monotonic()
        answers[name] = adapted.ask(name, SHORT)
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        loaded += any(name in worker for worker in adapted.loaded())
    found.figures["vllm.loaded_on_demand"] = loaded
    found.figures["vllm.first_reply_slowest_s"] = slowest_s
    found.figures["vllm.distinct_answers"] = len({base, *answers.values()})
    assert loaded == len(NAMES)
    assert len({base, *answers.values()}) == 1 + len(NAMES)
    assert {name: adapted.ask(name, SHORT) for name in NAMES} == answers
    assert adapted.ask("small", SHORT) == base


def test_one_more_than_a_worker_may_have_takes_the_place_of_the_least_used(
    adapted: Adapted, found: Found
) -> None:
    most = 0
    for name in (*NAMES, *NAMES):
        adapted.ask(name, SHORT)
        here = adapted.loaded()
        assert any(name in worker for worker in here)
        most = max(most, *map(len, here))
    found.figures["vllm.adapters_on_a_worker_most"] = most
    assert most <= 1


def test_files_replaced_in_place_are_served_at_once_with_nothing_of_the_old_ones_cache(
    adapted: Adapted, found: Found
) -> None:
    old = [adapted.ask("red", LONG) for _ in range(3)]  # its blocks are cached where it is
    assert len(set(old)) == 1
    before = [worker["red"] for worker in adapted.loaded() if "red" in worker]
    adapted.make("red", seed=99)
    new = [adapted.ask("red", LONG) for _ in range(3)]
    after = [worker["red"] for worker in adapted.loaded() if "red" in worker]
    truth = _truth(adapted)
    found.figures["vllm.replaced_answers_stale"] = sum(answer == old[0] for answer in new)
    found.figures["vllm.replaced_answers_true_ratio"] = sum(a == truth for a in new) / len(new)
    assert set(before).isdisjoint(after)
    assert truth != old[0]
    assert new == [truth] * 3


def _truth(adapted: Adapted) -> str:
    """Return what the files that are there now answer, computed anew under another name."""
    worker = next(iter(adapted.stack.workers().values()))
    body = {"lora_name": "truth", "lora_path": str(adapted.sources / "red")}
    adapted.tell(worker.url, "/v1/load_lora_adapter", body)
    try:
        return adapted.ask("truth", LONG, worker.url, cache_salt="nobody else's")
    finally:
        adapted.tell(worker.url, "/v1/unload_lora_adapter", {"lora_name": "truth"})
