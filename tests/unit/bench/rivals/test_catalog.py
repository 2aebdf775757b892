from __future__ import annotations

import pytest

from bench.rivals.catalog import ORACLE, RIVALS
from headrace.simulator.presets import engine_spec
from headrace.simulator.synthetic import synthesize
from headrace.twin.run import TwinResult, run_placement

SPECS = [engine_spec("H100", "Llama-3.1-8B"), engine_spec("L40S", "Llama-3.1-8B")] * 2


def run(name: str, seed: int = 3) -> TwinResult:
    workload = synthesize("conversation", 1, rate_rps=12.0, duration_s=15.0)
    return run_placement(workload, specs=SPECS, placement=RIVALS[name](seed), seed=1)


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_serves_all_requests_at_once_and_gives_everything_back(name: str) -> None:
    result = run(name)
    assert len(result.records) > 50
    assert all(record.served for record in result.records)
    assert run(name).digest == result.digest


def test_every_oracle_has_a_real_form() -> None:
    oracles = [name for name in RIVALS if name.endswith(ORACLE)]
    assert len(oracles) == 7
    assert {name.removesuffix(ORACLE) for name in oracles} <= set(RIVALS)


def test_rivals_that_see_prefixes_reuse_more_than_those_that_do_not() -> None:
    def hits(name: str) -> int:
        return sum(record.usage.cached_tokens for record in run(name).records)

    blind = max(hits("random"), hits("least-requests"))
    for name in ("llm-d", "llm-d-precise", "mooncake", "llumnix", "lmetric", "smg-cache-aware"):
        assert hits(name) > blind
