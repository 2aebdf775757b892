"""From measurements to figures, goals and the table that is printed. Pure but for printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.gateway.cases import CASES, Measured
from bench.result import Goal

Runs = Mapping[tuple[str, str], Sequence[Measured]]
"""Measurements by contender and case."""

RUST: Final = ("smg", "vllm-router")

GOALS: Final = (
    Goal("gateway-cpu-request", "ratio.cpu_per_request_vs_cheaper_rust", "<=", 0.8),
    Goal("gateway-cpu-stream", "ratio.cpu_per_stream_vs_cheaper_rust", "<=", 0.5),
    Goal("gateway-cpu-100k-prompt", "headrace.cpu_ms_100k_prompt", "<=", 5.0),
    Goal("gateway-errors", "headrace.errors", "==", 0.0),
)

Spread = dict[str, tuple[float, float]]


def figures_of(runs: Runs, rss_mib: Mapping[str, float]) -> tuple[dict[str, float], Spread]:
    """Return every figure and the spread of those that are medians of repeats.

    A contender that made an error in a case has no figure there but the count of its errors.
    """
    figures: dict[str, float] = {}
    spread: Spread = {}
    for (name, case), repeats in runs.items():
        errors = sum(run.errors for run in repeats)
        figures[f"{name}.{case}.errors"] = float(errors)
        figures[f"{name}.errors"] = figures.get(f"{name}.errors", 0.0) + errors
        if errors:
            continue
        for metric in (field.name for field in fields(Measured) if field.name != "faults"):
            values = [float(getattr(run, metric)) for run in repeats]
            figures[f"{name}.{case}.{metric}"] = median(values)
            spread[f"{name}.{case}.{metric}"] = (min(values), max(values))
    for name, mib in rss_mib.items():
        figures[f"{name}.rss_mib"] = mib
    _headline(figures, spread)
    return figures, spread


def _headline(figures: dict[str, float], spread: Spread) -> None:
    """Add the figures that goals and the README name; busy figures are those at 32 connections."""
    names = {name.partition(".")[0] for name in figures}
    for name in sorted(names):
        for short, case in (("request", "request_c32"), ("stream", "stream_c32")):
            source = f"{name}.{case}.cpu_us"
            if source in figures:
                figures[f"{name}.cpu_us_per_{short}"] = figures[source]
                spread[f"{name}.cpu_us_per_{short}"] = spread[source]
        source = f"{name}.long_c1.cpu_us"
        if source in figures:
            figures[f"{name}.cpu_ms_100k_prompt"] = figures[source] / 1e3
    for short in ("request", "stream"):
        for suffix, case in (("", f"{short}_c32"), ("_at_c1", f"{short}_c1")):
            rust = [figures.get(f"{name}.{case}.cpu_us") for name in RUST]
            ours = figures.get(f"headrace.{case}.cpu_us")
            cheaper = min((value for value in rust if value is not None), default=None)
            if ours is not None and cheaper is not None:
                figures[f"ratio.cpu_per_{short}_vs_cheaper_rust{suffix}"] = ours / cheaper


def print_tables(console: Console, figures: Mapping[str, float], spread: Spread) -> None:
    """Print one row per contender and case."""
    names = list(dict.fromkeys(name.partition(".")[0] for name in figures))
    table = Table(title="gateway benchmark: medians (least to greatest)")
    for heading in ("case", "router", "CPU us", "req/s", "p50 ms", "p99 ms", "errors", "RSS MiB"):
        table.add_column(heading, justify="left" if heading in ("case", "router") else "right")
    for case in CASES:
        for name in names:
            prefix = f"{name}.{case.name}"
            if f"{prefix}.errors" not in figures:
                continue
            cells = [
                _cell(figures, spread, f"{prefix}.{m}")
                for m in ("cpu_us", "rps", "p50_ms", "p99_ms")
            ]
            errors = f"{figures[f'{prefix}.errors']:.0f}"
            table.add_row(case.name, name, *cells, errors, f"{figures[f'{name}.rss_mib']:.0f}")
        table.add_section()
    console.print(table)


def _cell(figures: Mapping[str, float], spread: Spread, name: str) -> str:
    if name not in figures:
        return "-"
    low, high = spread[name]
    return f"{figures[name]:.4g} ({low:.3g}..{high:.3g})"
