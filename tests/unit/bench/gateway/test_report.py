from __future__ import annotations

import pytest
from rich.console import Console

from bench.gateway.cases import Measured
from bench.gateway.report import GOALS, figures_of, print_tables


def measured(cpu_us: float, **faults: int) -> Measured:
    return Measured(cpu_us, 100.0, 1.0, 2.0, faults, asked=0.0, share=0.5)


def test_a_figure_is_the_median_of_the_rounds_and_keeps_their_spread() -> None:
    runs = {("smg", "request_c32"): [measured(300.0), measured(200.0), measured(250.0)]}
    figures, spread = figures_of(runs, {"smg": 60.0})
    assert figures["smg.cpu_us_per_request"] == 250.0
    assert spread["smg.cpu_us_per_request"] == (200.0, 300.0)


def test_the_ratio_is_to_the_cheaper_rust_router_and_not_to_the_bare_relay() -> None:
    runs = {
        ("headrace", "stream_c32"): [measured(500.0)],
        ("smg", "stream_c32"): [measured(1_250.0)],
        ("vllm-router", "stream_c32"): [measured(1_000.0)],
        ("bare-relay", "stream_c32"): [measured(10.0)],
    }
    figures, _ = figures_of(runs, {})
    assert figures["ratio.cpu_per_stream_vs_cheaper_rust"] == 0.5


def test_a_case_with_a_fault_has_no_figure_but_the_count() -> None:
    runs = {("headrace", "request_c32"): [measured(100.0), measured(100.0, broken=2)]}
    figures, _ = figures_of(runs, {})
    assert figures["headrace.errors"] == 2.0
    assert "headrace.cpu_us_per_request" not in figures
    assert not GOALS[0].judged(figures)["met"]


def test_the_long_prompt_is_told_in_milliseconds() -> None:
    figures, _ = figures_of({("headrace", "long_c1"): [measured(1_500.0)]}, {})
    assert figures["headrace.cpu_ms_100k_prompt"] == 1.5


def test_the_table_shows_every_router_and_case_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = {("smg", "request_c1"): [measured(123.0)], ("headrace", "request_c1"): [measured(77.0)]}
    figures, spread = figures_of(runs, {"smg": 60.0, "headrace": 50.0})
    print_tables(Console(width=150), figures, spread)
    printed = capsys.readouterr().out
    assert "123" in printed
    assert "77" in printed
