"""Runs already made, so that an interrupted benchmark goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

from bench.routing.contenders import OURS
from bench.routing.runs import Run
from bench.routing.workloads import TRACES, WORKLOADS

CACHE: Final = Path(".cache/bench-routing/runs.jsonl")

_ROOT: Final = Path(__file__).parents[2]

_SHARED: Final = (
    "headrace/core",
    "headrace/simulator",
    "headrace/twin/changes.py",
    "headrace/twin/ideal.py",
    "headrace/twin/placement.py",
    "headrace/twin/report.py",
    "headrace/twin/run.py",
    "bench/routing/fleets.py",
    "bench/routing/runs.py",
    "bench/routing/workloads.py",
)
_OURS: Final = ("router", "kvcache", "headrace/twin/production.py", "bench/routing/contenders.py")
_RIVALS: Final = ("bench/rivals",)
"""What a run depends on: everyone's runs, ours, and a rival's."""


class RunCache:
    """Figures by run, in a file of JSON lines; a run of other code or of another trace is unknown.

    Args:
        path: The file; it is made when the first run is put.
        code: Hash of what the runs of a policy depend on, for ours and for a rival.

    """

    def __init__(self, path: Path, code: Mapping[bool, str]) -> None:
        self._path = path
        self._code = code
        self._found: dict[str, dict[str, float]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                    self._found[row["key"]] = row["figures"]
                except (ValueError, KeyError, TypeError):
                    continue  # cut short as the benchmark was interrupted

    @classmethod
    def of_this_tree(cls, path: Path = CACHE) -> Self:
        """Return the cache of the code as it stands, changes not committed included."""
        shared = _hash(_files(_SHARED))
        traces = _hash(_files(str((TRACES / w.path).resolve()) for w in WORKLOADS.values()))
        code = {
            ours: shared + traces + _hash(_files(_OURS if ours else _RIVALS))
            for ours in (True, False)
        }
        return cls(path, MappingProxyType(code))

    def get(self, run: Run) -> dict[str, float] | None:
        """Return the figures of ``run``, or None if it has not been made."""
        return self._found.get(self._key(run))

    def put(self, run: Run, figures: Mapping[str, float]) -> None:
        """Keep the figures of ``run``, on disk at once."""
        key = self._key(run)
        self._found[key] = dict(figures)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, "run": asdict(run), "figures": figures}) + "\n")

    def _key(self, run: Run) -> str:
        text = json.dumps([self._code[run.policy == OURS], asdict(run)])
        return blake2b(text.encode(), digest_size=12).hexdigest()


def _files(paths: Iterable[str]) -> list[Path]:
    """Return the files of folders and files, in a stable order; those that are absent are not."""
    found: list[Path] = []
    for path in (_ROOT / name for name in paths):
        if path.is_dir():
            found += (p for p in path.rglob("*") if p.suffix in {".py", ".jsonl", ".csv"})
        elif path.exists():
            found.append(path)
    return sorted(found)


def _hash(files: Iterable[Path]) -> str:
    digest = blake2b(digest_size=12)
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
