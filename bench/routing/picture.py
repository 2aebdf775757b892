"""Mean TTFT over load, ours and the rivals, one panel per trace and fleet. Writes a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.routing.cells import Cell, Compared, Figures
from bench.routing.contenders import OURS, is_oracle
from bench.routing.stats import mean
from bench.routing.verdicts import TTFT, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BYTES: Final = 200_000
"""A larger picture is not kept: it would weigh on every clone."""

_NAMED: Final = 4  # rivals per panel that get a name; the others are grey


def draw(compared: Compared, path: Path) -> bool:
    """Write the picture; return whether it was small enough to keep."""
    traces = list(dict.fromkeys(cell.trace for cell in compared.cells))
    fleets = list(dict.fromkeys(cell.fleet for cell in compared.cells))
    size = (3.2 * len(traces), 2.8 * len(fleets))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(fleets), len(traces), squeeze=False)
    for row, fleet in enumerate(fleets):
        for column, trace in enumerate(traces):
            _panel(axes[row][column], compared.cells, trace, fleet)
    figure.supxlabel("load, % of the best policy's capacity", fontsize=8)
    figure.supylabel("mean TTFT, s", fontsize=8)
    figure.savefig(path, dpi=80)
    if path.stat().st_size <= MAX_BYTES:
        return True
    path.unlink()
    return False


def _panel(
    axes: Axes, cells: Mapping[Cell, Mapping[str, Sequence[Figures]]], trace: str, fleet: str
) -> None:
    loads = [c.load_percent for c in cells if (c.trace, c.fleet) == (trace, fleet)]
    lines: dict[str, list[float]] = {}
    for load in loads:
        for policy, runs in cells[Cell(trace, fleet, load)].items():
            lines.setdefault(policy, []).append(mean(values(runs, TTFT)).value)
    ranked = sorted(
        (p for p in lines if p != OURS and not is_oracle(p)), key=lambda p: lines[p][-1]
    )
    for policy in reversed(ranked[_NAMED:]):
        axes.plot(loads, lines[policy], color="0.85", linewidth=0.8)
    for policy in ranked[:_NAMED]:
        axes.plot(loads, lines[policy], linewidth=1.0, marker=".", markersize=3, label=policy)
    if OURS in lines:
        axes.plot(loads, lines[OURS], color="black", linewidth=2.0, label=OURS)
    axes.set_yscale("log")
    axes.set_xticks(loads)
    axes.set_title(f"{trace}, {fleet}", fontsize=8)
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6)
