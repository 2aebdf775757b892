"""Runs wrk and reads what it found."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SCRIPT: Final = Path(__file__).with_name("load.lua")
PATH: Final = "/v1/chat/completions"
SLACK_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """One run's counts; ``errors`` are refused, broken or late requests and statuses above 399."""

    requests: int
    duration_s: float
    received_bytes: int
    errors: int
    p50_ms: float
    p99_ms: float

    @property
    def rps(self) -> float:
        """Requests completed per second."""
        return self.requests / self.duration_s


def run_load(port: int, bodies: Path, *, connections: int, duration_s: int, core: int) -> Load:
    """Send the bodies in turn, as fast as ``connections`` can, for ``duration_s`` seconds."""
    argv = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{duration_s}s"]
    argv += ["--timeout", "10s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}", "--"]
    done = subprocess.run(
        [*argv, str(bodies), PATH],
        capture_output=True,
        text=True,
        check=True,
        timeout=duration_s + SLACK_S,
    )
    return parse(done.stdout)


def parse(printed: str) -> Load:
    """Read what ``load.lua`` printed.

    Raises:
        ValueError: if there is no result in it.

    """
    for line in printed.splitlines():
        if line.startswith("RESULT "):
            found = json.loads(line.removeprefix("RESULT "))
            return Load(
                requests=int(found["requests"]),
                duration_s=found["duration_us"] / 1e6,
                received_bytes=int(found["bytes"]),
                errors=int(found["errors"]),
                p50_ms=found["p50_us"] / 1e3,
                p99_ms=found["p99_us"] / 1e3,
            )
    raise ValueError(f"wrk printed no result:\n{printed[-2_000:]}")
