"""Whole routers that share late news over simulated engines, and call requests back.

Whatever crosses whatever, every request is served once, nothing is left in any ledger, and it all
happens again with the same seed.
"""

from __future__ import annotations

import pytest

from bench.replicas_twin import Crash, Replicas, Setup
from headrace.core.outcome import Outcome
from headrace.simulator.presets import engine_spec
from headrace.simulator.synthetic import synthesize
from headrace.twin.run import TwinResult, run_placement

SPEC = engine_spec("L4", "Llama-3.1-8B")
DELAYS_S = (0.02, 0.2, 1.0)


def run(seed: int) -> tuple[TwinResult, Replicas]:
    """Serve bursts by four routers; where ``seed`` is odd the first of them dies on the way."""
    workload = synthesize("bursts", seed, rate_rps=6.0, duration_s=20.0)
    crash = Crash(at_s=8.0) if seed % 2 else None
    setup = Setup(4, delay_s=DELAYS_S[seed % len(DELAYS_S)], seed=seed, crash=crash)
    placement = Replicas(setup)
    return run_placement(workload, specs=[SPEC] * 4, placement=placement, seed=seed), placement


@pytest.mark.parametrize("seed", range(6))
def test_every_request_is_served_once_wherever_it_was_sent_before(seed: int) -> None:
    result, placement = run(seed)  # checks every ledger at its end, and that no request is left
    assert {record.outcome for record in result.records} == {Outcome.SERVED}
    assert len({record.request_id for record in result.records}) == len(placement.came_to)
    assert placement.called_back > 0


def test_same_seed_same_story() -> None:
    assert run(5)[0].digest == run(5)[0].digest
