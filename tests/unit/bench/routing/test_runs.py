from __future__ import annotations

from pathlib import Path

import pytest

from bench.routing import runs, workloads
from bench.routing.contenders import CONTENDERS, OURS, STRONG
from bench.routing.fleets import FLEETS, specs_of
from bench.routing.runs import Run, figures_of, imbalance_ratio
from bench.routing.verdicts import METRICS
from bench.routing.workloads import Workload, at_rate, requests_of
from headrace.core.ids import EndpointId
from headrace.simulator.speed import presumed_speed
from headrace.simulator.synthetic import synthesize
from headrace.simulator.trace import TraceRequest
from headrace.twin.report import offered_span_s
from headrace.twin.run import EngineTotals


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """A workload that needs no trace."""

    def build(path: Path, seed: int, rate_rps: float, count: int) -> list[TraceRequest]:
        return at_rate(synthesize("conversation", seed, rate_rps, 60.0)[:count], rate_rps)

    known = {"small": Workload("none", 60, 2.0, build, "")}
    for module in (runs, workloads):
        monkeypatch.setattr(module, "WORKLOADS", known)
    requests_of.cache_clear()
    return "small"


@pytest.mark.parametrize("policy", [OURS, "mooncake"])
def test_a_run_has_every_figure_of_the_comparison(small: str, policy: str) -> None:
    found = figures_of(Run(small, "mixed", 20.0, policy, 1, 60))
    assert {metric.name for metric in METRICS} <= found.keys()
    assert found["served"] == found["requests"] == 48  # the first fifth is not counted
    assert found["goodput_rps"] <= found["offered_rps"] + 1e-6
    assert found["imbalance_ratio"] >= 1.0


def test_equal_runs_give_equal_figures(small: str) -> None:
    run = Run(small, "h100", 20.0, "power-of-two", 1, 60)
    once, again = figures_of(run), figures_of(run)
    assert {**once, "wall_s": 0} == {**again, "wall_s": 0}


def test_gaps_are_scaled_to_the_rate_and_keep_their_proportions() -> None:
    requests = [TraceRequest(at_s, 10, 1) for at_s in (5.0, 6.0, 9.0)]
    scaled = at_rate(requests, 2.0)
    assert 3 / offered_span_s(scaled) == pytest.approx(2.0)
    first, second, third = (request.arrival_s for request in scaled)
    assert first == 0.0
    assert (third - second) / (second - first) == pytest.approx(3.0)


def test_imbalance_is_relative_to_what_each_card_can_do() -> None:
    specs = specs_of("mixed")[:2]
    fast, slow = (presumed_speed(spec).prefill_tokens_per_s for spec in specs)

    def totals(tokens: float) -> EngineTotals:
        return EngineTotals(EndpointId("e"), 1.0, round(tokens), 0)

    even = [totals(10 * fast), totals(10 * slow)]
    assert imbalance_ratio(even, specs) == pytest.approx(1.0, rel=1e-3)
    assert imbalance_ratio([totals(10 * fast), totals(0)], specs) == pytest.approx(2.0)
    assert imbalance_ratio([totals(0), totals(0)], specs) == 1.0


def test_every_fleet_has_eight_engines_with_blocks_of_one_size() -> None:
    for fleet in FLEETS:
        specs = specs_of(fleet)
        assert len(specs) == 8
        assert len({spec.block_size for spec in specs}) == 1


def test_the_strong_policies_are_among_the_contenders() -> None:
    assert set(STRONG) <= CONTENDERS.keys()
