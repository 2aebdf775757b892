"""Reports side by side, as a table for a terminal. Pure: returns what rich will draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.table import Table

from headrace.core.outcome import Outcome
from headrace.core.slo import SloTarget
from headrace.twin.report import Report, Spread


def table(reports: Sequence[Report], *, title: str, note: str = "") -> Table:
    """Return one column per report and one row per figure; the best of a row is bold.

    Args:
        reports: What to compare, in the order of the columns.
        title: Says what was run.
        note: Printed under the table; says in what seconds the figures are.

    """
    drawn = Table(title=title, caption=note or None, title_justify="left", caption_justify="left")
    drawn.add_column("")
    for report in reports:
        drawn.add_column(report.name, justify="right")
    _latency_rows(drawn, "TTFT", [report.ttft for report in reports])
    _latency_rows(drawn, "TPOT", [report.tpot for report in reports])
    _latency_rows(drawn, "E2E", [report.e2e for report in reports])
    _row(drawn, "prefix hit ratio", [r.hit_ratio for r in reports], _share, best=max)
    _row(drawn, "  ideal", [r.ideal_hit_ratio for r in reports], _share)
    drawn.add_section()
    slo = slo_text(reports[0].slo) if reports else ""
    _row(drawn, f"goodput ({slo})", [r.goodput_rps for r in reports], _rate, best=max)
    _row(drawn, "  offered", [r.offered_rps for r in reports], _rate)
    drawn.add_section()
    _row(drawn, "requests", [r.requests for r in reports], _count)
    for outcome in Outcome:
        counts = [dict(r.outcomes).get(outcome, 0) for r in reports]
        if any(counts):
            _row(drawn, f"  {outcome}", counts, _count)
    return drawn


def slo_text(slo: SloTarget) -> str:
    """Return the targets in words: ``TTFT <= 2 s, TPOT <= 50 ms``."""
    named = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("E2E", slo.e2e_s))
    parts = [f"{name} <= {_seconds(limit)}" for name, limit in named if limit is not None]
    return ", ".join(parts) or "no targets"


def _latency_rows(drawn: Table, name: str, spreads: Sequence[Spread]) -> None:
    _row(drawn, f"{name} mean", [s.mean_s for s in spreads], _seconds, best=min)
    _row(drawn, "  p50", [s.p50_s for s in spreads], _seconds, best=min)
    _row(drawn, "  p90", [s.p90_s for s in spreads], _seconds, best=min)
    _row(drawn, "  p99", [s.p99_s for s in spreads], _seconds, best=min)
    drawn.add_section()


def _row(
    drawn: Table,
    label: str,
    values: Sequence[float],
    form: Callable[[float], str],
    *,
    best: Callable[[Sequence[float]], float] | None = None,
) -> None:
    real = [value for value in values if not math.isnan(value)]
    marked = best(real) if best is not None and len(real) > 1 else None
    cells = [
        f"[bold]{form(value)}[/bold]" if marked is not None and value == marked else form(value)
        for value in values
    ]
    drawn.add_row(label, *cells)


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    if value < 0.1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _share(value: float) -> str:
    return f"{value * 100:.1f} %"


def _rate(value: float) -> str:
    return f"{value:.3g} req/s"


def _count(value: float) -> str:
    return f"{value:,.0f}"
