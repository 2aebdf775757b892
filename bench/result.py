"""Writes what a benchmark found, in the one form that ``bench.results`` reads."""

from __future__ import annotations

import json
import operator
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

RESULTS_DIR: Final = Path(__file__).parent / "results"

OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and where it must lie; ``id`` is what the issue calls it."""

    id: str
    figure: str
    op: str
    target: float

    def __post_init__(self) -> None:
        if self.op not in OPERATORS:
            raise ValueError(f"op {self.op!r}: expected one of {', '.join(OPERATORS)}")

    def judged(self, figures: Mapping[str, float]) -> dict[str, Any]:
        """Return the goal's entry; a figure that is missing or not a number is not met."""
        value = figures.get(self.figure)
        met = value is not None and OPERATORS[self.op](value, self.target)
        return {**asdict(self), "value": value, "met": met}


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark asked and found.

    Attributes:
        name: Name of the file; ``make bench-<name>`` for benchmarks.
        question: What was asked, in one sentence.
        command: How to ask it again.
        figures: Every number found, by a dotted name that ends in its unit.
        goals: What the figures are judged by, met or not.
        versions: Versions of what was measured, our own dependencies or rivals.
        seeds: Seeds that the inputs were drawn with.
        notes: What a reader must know to read the figures rightly.
        spread: Least and greatest value over the repeats of a figure that is their median.

    """

    name: str
    question: str
    command: str
    figures: Mapping[str, float]
    goals: Sequence[Goal] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    notes: Sequence[str] = ()
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def write_result(result: Result, directory: Path = RESULTS_DIR) -> Path:
    """Write ``result`` with the machine, commit and date it belongs to; return the file."""
    document = {
        "name": result.name,
        "question": result.question,
        "command": result.command,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),  # noqa: TID251 -- nothing depends on it
        "machine": machine(),
        "versions": {"python": platform.python_version(), **result.versions},
        "seeds": list(result.seeds),
        "notes": list(result.notes),
        "figures": {name: rounded(value) for name, value in result.figures.items()},
        "spread": {
            name: [rounded(low), rounded(high)] for name, (low, high) in result.spread.items()
        },
        "goals": [
            goal.judged({name: rounded(value) for name, value in result.figures.items()})
            for goal in result.goals
        ],
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.name}.json"
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    return path


def rounded(value: float) -> float:
    """Return ``value`` to five significant digits: more is noise and makes diffs unreadable."""
    return value if isinstance(value, int) else float(f"{value:.5g}")


def version_of(distribution: str) -> str:
    """Return the installed version of a distribution, or "absent"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def commit() -> str:
    """Return the commit checked out, with "+" when tracked files differ from it."""
    root = Path(__file__).parents[1]
    if shutil.which("git") is None:
        return "unknown"

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", *args], cwd=root, capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def machine() -> dict[str, Any]:
    """Describe the machine as far as it bears on the figures."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_name(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "kernel": platform.release(),
        "gpu": _gpu_name(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu_name() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.stdout.strip().replace("\n", ", ") or None
