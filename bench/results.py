"""Prints every goal of every result as one table; exits 1 on a file that cannot be read.

``python -m bench.results [DIRECTORY]``
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.result import OPERATORS, RESULTS_DIR


class BadResultError(Exception):
    """A result file is not in the form that ``bench.result`` writes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One goal of one result; ``value`` is None when the figure was not measured."""

    name: str
    goal_id: str
    figure: str
    value: float | None
    op: str
    target: float
    met: bool


def read_rows(path: Path) -> list[Row]:
    """Return the goals of one result file.

    Raises:
        BadResultError: if the file is not a result, or says "met" of a goal that is not.

    """
    try:
        document = json.loads(path.read_text())
        return list(_rows(document))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadResultError(f"{path.name}: {type(error).__name__}: {error}") from error


def _rows(document: dict[str, Any]) -> Iterator[Row]:
    for goal in document["goals"]:
        value, op, target = goal["value"], goal["op"], goal["target"]
        met = value is not None and OPERATORS[op](value, target)
        if met is not goal["met"]:
            raise ValueError(f"goal {goal['id']}: met is {goal['met']}, but {value} {op} {target}")
        if goal["figure"] in document["figures"] and document["figures"][goal["figure"]] != value:
            raise ValueError(f"goal {goal['id']}: {value} is not the figure {goal['figure']}")
        yield Row(document["name"], goal["id"], goal["figure"], value, op, target, met)


def render(rows: Sequence[Row]) -> Table:
    """Lay the rows out, results in order of name, goals in the order they were written."""
    met = sum(row.met for row in rows)
    table = Table(title=f"{met} of {len(rows)} goals met")
    for heading in ("result", "goal", "figure", "value", "op", "target", "met"):
        table.add_column(heading, justify="right" if heading in ("value", "target") else "left")
    for row in rows:
        table.add_row(
            row.name,
            row.goal_id,
            row.figure,
            "not measured" if row.value is None else f"{row.value:g}",
            row.op,
            f"{row.target:g}",
            "[green]yes[/]" if row.met else "[red]no[/]",
        )
    return table


def main(argv: Sequence[str]) -> int:
    """Print the table of a folder's results."""
    directory = Path(argv[0]) if argv else RESULTS_DIR
    console = Console(width=None if sys.stdout.isatty() else 140)
    rows: list[Row] = []
    failed = False
    for path in sorted(directory.glob("*.json")):
        try:
            rows.extend(read_rows(path))
        except BadResultError as error:
            print(f"cannot read {error}", file=sys.stderr)
            failed = True
    console.print(render(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
