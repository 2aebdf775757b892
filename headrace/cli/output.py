"""Where reports go: the terminal, a JSON file, a PNG. Writes files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from rich.console import Console

from headrace.core.errors import ConfigError
from headrace.core.record import ServedRecord
from headrace.twin.report import Report, figures
from headrace.twin.table import table


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its report, and the records behind it for the plot."""

    report: Report
    records: Sequence[ServedRecord]


def write(
    runs: Sequence[Run],
    *,
    title: str,
    note: str,
    facts: Mapping[str, object],
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Print the table, then write the files that were asked for.

    Args:
        runs: What to compare.
        title: What was run, for the table and the plot.
        note: How to read the figures.
        facts: What the JSON says of the run besides its figures.
        json_path: Where the JSON goes, if anywhere.
        plot_path: Where the PNG goes, if anywhere.

    Raises:
        ConfigError: if a file cannot be written or the plot needs a package that is not there.

    """
    Console().print(table([run.report for run in runs], title=title, note=note))
    if json_path is not None:
        _write_json(json_path, runs, facts)
    if plot_path is not None:
        from headrace.twin.plot import plot  # noqa: PLC0415 -- start-up time

        plot({run.report.name: run.records for run in runs}, plot_path, title=title)


def _write_json(path: Path, runs: Sequence[Run], facts: Mapping[str, object]) -> None:
    named = {
        f"{run.report.name}.{name}": value
        for run in runs
        for name, value in figures(run.report).items()
    }
    text = orjson.dumps({**facts, "figures": named}, option=orjson.OPT_INDENT_2)
    try:
        path.write_bytes(text + b"\n")
    except OSError as error:
        raise ConfigError(f"json: cannot write {path}: {error.strerror}") from None


def check_writable(path: Path | None, option: str) -> None:
    """Refuse a path whose folder is not there before the run rather than after it.

    Raises:
        ConfigError: naming the option.

    """
    if path is not None and not path.resolve().parent.is_dir():
        raise ConfigError(f"{option}: there is no folder {path.resolve().parent}")
