from __future__ import annotations

import io

from rich.console import Console

from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.core.slo import SloTarget
from headrace.twin.report import Report, summarise
from headrace.twin.table import slo_text, table

SLO = SloTarget(ttft_s=2.0, tpot_s=0.05)


def report(name: str, *ttfts_s: float, failed: int = 0) -> Report:
    records = [
        ServedRecord(RequestId("r"), 0.0, ttft, ttft + 1.0, Usage(100, 11, 40), Outcome.SERVED)
        for ttft in ttfts_s
    ]
    lost = ServedRecord(RequestId("x"), 0.0, 0.0, 0.0, Usage(1, 0), Outcome.ENGINE_FAILED)
    records += [lost] * failed
    return summarise(name, records, slo=SLO, ideal_hit_ratio=0.5, span_s=10.0)


def drawn(*reports: Report) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    console.print(table(reports, title="title", note="note"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_run_is_a_column_and_each_figure_a_row() -> None:
    text = drawn(report("one", 0.25), report("two", 4.0))
    for word in ("one", "two", "TTFT mean", "0.25 s", "4 s", "40.0 %", "50.0 %"):
        assert word in text
    assert "TTFT <= 2 s, TPOT <= 50 ms" in text


def test_the_best_of_a_row_stands_out() -> None:
    text = drawn(report("one", 0.25), report("two", 4.0))
    assert "\x1b[1m0.25 s" in text
    assert "\x1b[1m4 s" not in text


def test_only_outcomes_that_happened_have_a_row() -> None:
    text = drawn(report("one", 1.0, failed=2))
    assert "engine_failed" in text
    assert "refused_full" not in text


def test_a_run_without_a_served_request_can_be_drawn() -> None:
    assert "-" in drawn(report("none", failed=1))


def test_targets_are_put_in_words() -> None:
    assert slo_text(SloTarget()) == "no targets"
    assert slo_text(SloTarget(e2e_s=120.0)) == "E2E <= 120 s"
