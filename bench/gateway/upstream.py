"""Compiles and runs the fake engine, ``upstream.c``, and reads its counters."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.gateway.bodies import MODEL
from bench.gateway.process import Child

SOURCE: Final = Path(__file__).with_name("upstream.c")
CHUNKS: Final = 64
GAP_US: Final = 1_000
"""Between two chunks of a stream: far below any engine's step, so that routers are kept busy."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the engine's endpoints served so far, all together; ``per_endpoint`` is requests."""

    requests: int
    streams: int
    chunks: int
    aborted: int
    unfinished_writes: int
    not_found: int
    cpu_us: int
    per_endpoint: tuple[int, ...]


def compile_upstream(directory: Path) -> Path:
    """Compile the engine; return the program."""
    program = directory / "upstream"
    subprocess.run(["cc", "-O2", "-o", str(program), str(SOURCE)], check=True, timeout=120)
    return program


def upstream(program: Path, ports: list[int], log: Path, *, core: int) -> Child:
    """Return the engine, not yet started, with one endpoint per port."""
    options = ["--gap-us", str(GAP_US), "--chunks", str(CHUNKS), "--model", MODEL]
    return Child("upstream", [str(program), *map(str, ports), *options], log, core=core)


def served(port: int) -> Served:
    """Read the counters."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/bench/stats", timeout=10.0) as reply:
        stats = json.load(reply)
    endpoints = stats["endpoints"]

    def total(field: str) -> int:
        return sum(int(endpoint[field]) for endpoint in endpoints)

    return Served(
        requests=total("requests"),
        streams=total("streams"),
        chunks=total("chunks"),
        aborted=total("aborted"),
        unfinished_writes=total("unfinished_writes"),
        not_found=total("not_found"),
        cpu_us=int(stats["cpu_us"]),
        per_endpoint=tuple(int(endpoint["requests"]) for endpoint in endpoints),
    )
