"""The production router over simulated engines: nothing lost, same seed same trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.core.outcome import Outcome
from headrace.simulator.presets import engine_spec
from headrace.simulator.synthetic import synthesize
from headrace.twin.run import TwinResult, simulate
from router.catalog import POLICIES

ROOT = Path(__file__).parents[2]
SPEC = engine_spec("L4", "Llama-3.1-8B")


def run(seed: int, policy: str = "expected-ttft", name: str = "conversation") -> TwinResult:
    workload = synthesize(name, seed, rate_rps=4.0, duration_s=60.0)
    return simulate(workload, spec=SPEC, engines=4, policy=policy, seed=seed)


@pytest.mark.parametrize("seed", range(20))
def test_every_request_ends_once_with_what_it_asked_for(seed: int) -> None:
    policy = sorted(POLICIES)[seed % len(POLICIES)]
    name = ("conversation", "agents", "code", "bursts")[seed // 5]
    workload = synthesize(name, seed, rate_rps=4.0, duration_s=60.0)
    result = run(seed, policy, name)
    assert len(result.records) == len(workload)
    assert len({record.request_id for record in result.records}) == len(workload)
    for record, asked in zip(result.records, workload, strict=True):
        if asked.prompt_tokens + asked.output_tokens > SPEC.context_tokens:
            assert record.outcome is Outcome.REFUSED_INVALID
            continue
        assert record.served
        assert record.usage.prompt_tokens == asked.prompt_tokens
        assert record.usage.output_tokens == asked.output_tokens
        assert 0 <= record.usage.cached_tokens < asked.prompt_tokens
        assert 0.0 < record.ttft_s <= record.e2e_s


def test_same_seed_same_trace_and_another_seed_another() -> None:
    assert run(7).digest == run(7).digest
    assert run(7).digest != run(8).digest


def test_same_trace_in_two_processes_with_different_hash_seeds() -> None:
    """Sets iterate in hash order, so one process alone cannot show that order leaked (INV-6)."""
    code = "import test_twin as t; print(t.run(7).digest)"
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    seen = {
        subprocess.check_output(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
        )
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_the_default_policy_beats_the_others_where_prefixes_are_shared() -> None:
    mean = {}
    for policy in sorted(POLICIES):
        records = run(3, policy, "agents").records
        mean[policy] = sum(record.ttft_s for record in records) / len(records)
    assert min(mean, key=lambda policy: mean[policy]) == "expected-ttft"
