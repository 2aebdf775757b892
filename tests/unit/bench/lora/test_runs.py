from __future__ import annotations

from statistics import mean

from bench.lora.runs import AIBRIX, CONTENDERS, OURS, reference, run
from bench.lora.workload import Demand, requests

ADAPTERS = 60
WORKLOAD = requests(Demand(ADAPTERS, 1.0, rate_rps=20.0, duration_s=4.0), 1)


def test_every_contender_serves_all_and_loads_each_adapter_at_least_once() -> None:
    free_ms = reference(WORKLOAD, ADAPTERS, 1)
    asked = len({one.adapter for one in WORKLOAD})
    for name in CONTENDERS:
        done = run(name, WORKLOAD, ADAPTERS, 1, free_ms)
        assert done.requests == len(WORKLOAD)
        assert done.loads >= asked
        assert mean(done.added_ms) > 0.0


def test_one_endpoint_per_adapter_loads_none_twice_while_there_are_slots_for_all() -> None:
    free_ms = reference(WORKLOAD, ADAPTERS, 1)
    asked = len({one.adapter for one in WORKLOAD})
    done = run(AIBRIX, WORKLOAD, ADAPTERS, 1, free_ms)
    assert done.loads == asked
    assert done.hit_ratio == 1.0 - asked / len(WORKLOAD)


def test_a_run_repeats_exactly() -> None:
    free_ms = reference(WORKLOAD, ADAPTERS, 1)
    first, second = (run(OURS, WORKLOAD, ADAPTERS, 1, free_ms) for _ in range(2))
    assert first == second
