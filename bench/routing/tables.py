"""What was found, as tables for a terminal and lines for a file. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from bench.routing.capacity import rate_rps
from bench.routing.cells import Cell, Compared, Figures
from bench.routing.contenders import OURS, is_oracle
from bench.routing.stats import Estimate, mean, ratio
from bench.routing.verdicts import METRICS, TTFT, Metric, Verdict, above_floor, values, verdict


def tables(compared: Compared) -> Iterator[Table]:
    """Yield one table per trace and fleet, then the ranking of everyone."""
    cells = compared.cells
    for trace, fleet in {(cell.trace, cell.fleet): None for cell in cells}:
        yield _cells_table(compared, [c for c in cells if (c.trace, c.fleet) == (trace, fleet)])
    yield _ranking(cells)


def csv_lines(compared: Compared) -> Iterator[str]:
    """Yield each contender in each cell: means over seeds, and half their intervals."""
    names = ",".join(f"{metric.name},{metric.name}_ci95" for metric in METRICS)
    yield f"trace,fleet,load_percent,policy,seeds,{names}"
    for cell, policies in compared.cells.items():
        for policy, runs in policies.items():
            found = [mean(values(runs, metric.name)) for metric in METRICS]
            numbers = ",".join(f"{e.value:.5g},{e.high - e.value:.2g}" for e in found)
            yield f"{cell.trace},{cell.fleet},{cell.load_percent},{policy},{len(runs)},{numbers}"


def _cells_table(compared: Compared, cells: Sequence[Cell]) -> Table:
    trace, fleet = cells[0].trace, cells[0].fleet
    full = {s: p for (t, f, s), p in compared.capacity.items() if (t, f) == (trace, fleet)}
    rates = ", ".join(f"{rate_rps(probe.step):.3g}" for probe in full.values())
    whose = next(iter(full.values())).policy
    table = Table(
        title=f"{trace}, {fleet}: 100 % is {rates} req/s per seed (best: {whose})",
        caption="ours / best rival = ratio +- 95 %; green: better by 15 %, red: worse by 3 %; "
        "floor: each prompt alone on the fastest card, all earlier ones cached / best rival",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for cell in cells:
        table.add_column(f"{cell.load_percent} %")
    for metric in METRICS:
        judged = [verdict(compared.cells[cell], metric) for cell in cells]
        texts = [
            _own(compared.cells[c], metric) if v is None else _text(v, metric)
            for c, v in zip(cells, judged, strict=True)
        ]
        table.add_row(metric.label, *texts)
        if metric.name == TTFT:
            table.add_row("floor", *(_floor(compared, cell, metric) for cell in cells))
    return table


def _floor(compared: Compared, cell: Cell, metric: Metric) -> str:
    found = above_floor(compared, cell)
    return "" if found is None else f"{_form(found[0], metric)} = {found[1].value:.2f}"


def _text(judged: Verdict, metric: Metric) -> str:
    gain = judged.ratio.value if metric.better == "less" else 1.0 / judged.ratio.value
    colour = "green" if gain <= 0.85 else "red" if gain > 1.03 else "default"
    ours, theirs = _form(judged.ours, metric), _form(judged.theirs, metric)
    half = (judged.ratio.high - judged.ratio.low) / 2.0
    sure = f" +-{half:.2f}" if half > 0.0 else ""  # one seed says nothing of it
    return f"{ours} / {theirs} {judged.rival} = [{colour}]{judged.ratio.value:.2f}[/{colour}]{sure}"


def _own(policies: Mapping[str, Sequence[Figures]], metric: Metric) -> str:
    """What there is where there is nothing to compare: each contender's figure."""
    return ", ".join(
        f"{policy} {_form(mean(values(runs, metric.name)), metric)}"
        for policy, runs in policies.items()
    )


def _form(estimate: Estimate, metric: Metric) -> str:
    value = estimate.value
    match metric.form:
        case "s":
            return f"{value * 1000:.3g} ms" if value < 1.0 else f"{value:.3g} s"
        case "ms":
            return f"{value * 1000:.3g} ms"
        case "share":
            return f"{value * 100:.1f} %"
        case "rate":
            return f"{value:.3g}/s"
        case _:
            return f"{value:.2f}"


def _ranking(cells: Mapping[Cell, Mapping[str, Sequence[Figures]]]) -> Table:
    """Everyone's mean TTFT over ours: geometric mean over a trace's cells, first seed only.

    Only with the first seed has everyone run, oracle forms included.
    """
    table = Table(
        title="mean TTFT over ours, geometric mean over cells (above 1: slower than ours)",
        caption="-oracle: knows what no router could; never counts as the best rival",
        title_justify="left",
        caption_justify="left",
    )
    traces = list(dict.fromkeys(cell.trace for cell in cells))
    for heading in ("policy", *traces, "all", "worst cell"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    policies = dict.fromkeys(policy for found in cells.values() for policy in found)
    rows: list[tuple[float, list[str]]] = []
    for policy in policies:
        found = {cell: _over_ours(runs, policy) for cell, runs in cells.items()}
        by_trace = [_geometric([r for c, r in found.items() if c.trace == t]) for t in traces]
        every = _geometric(list(found.values()))
        numbers = (*by_trace, every, max(found.values()))
        style = "bold" if policy == OURS else "dim" if is_oracle(policy) else "default"
        texts = [f"[{style}]{policy}[/{style}]", *(f"{number:.2f}" for number in numbers)]
        rows.append((every, texts))
    for _, texts in sorted(rows, key=lambda row: row[0]):
        table.add_row(*texts)
    return table


def _over_ours(policies: Mapping[str, Sequence[Figures]], policy: str) -> float:
    if OURS not in policies:
        return math.nan
    return ratio(values(policies[policy][:1], TTFT), values(policies[OURS][:1], TTFT)).value


def _geometric(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else math.nan
