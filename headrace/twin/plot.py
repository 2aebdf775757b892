"""Reports as a picture. Writes a PNG; needs the ``report`` extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.core.errors import ConfigError
from headrace.core.record import ServedRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW_S = 30.0
"""Engine seconds that one point of the curve over time averages."""


def plot(runs: Mapping[str, Sequence[ServedRecord]], path: Path, *, title: str) -> None:
    """Write one PNG: how TTFT, TPOT and E2E are spread, and TTFT over time, one line per run.

    Raises:
        ConfigError: if matplotlib is not installed or ``path`` cannot be written.

    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- slow, an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise ConfigError("plot: needs matplotlib: pip install 'headrace[report]'") from None
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, 2)
    _spread(axes[0][0], runs, "TTFT", lambda record: record.ttft_s)
    _spread(axes[0][1], runs, "TPOT", lambda record: record.tpot_s)
    _spread(axes[1][0], runs, "E2E", lambda record: record.e2e_s)
    _over_time(axes[1][1], runs)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(f"plot: cannot write {path}: {error}") from None


def _spread(
    axes: Axes,
    runs: Mapping[str, Sequence[ServedRecord]],
    name: str,
    value: Callable[[ServedRecord], float | None],
) -> None:
    for run, records in runs.items():
        seen = (value(record) for record in records if record.served)
        ordered = sorted(v for v in seen if v is not None)
        shares = [(rank + 1) / len(ordered) for rank in range(len(ordered))]
        axes.plot(ordered, shares, label=run)
    axes.set(xlabel=f"{name} (engine seconds)", ylabel="share of requests", xscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def _over_time(axes: Axes, runs: Mapping[str, Sequence[ServedRecord]]) -> None:
    for run, records in runs.items():
        windows: dict[int, list[float]] = {}
        for record in records:
            if record.served:
                windows.setdefault(int(record.arrival_s / WINDOW_S), []).append(record.ttft_s)
        points = sorted(windows.items())
        axes.plot(
            [(window + 0.5) * WINDOW_S for window, _ in points],
            [sum(values) / len(values) for _, values in points],
            label=run,
        )
    axes.set(xlabel="arrival (engine seconds)", ylabel=f"mean TTFT over {WINDOW_S:.0f} s (s)")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
