"""One run: fresh engines, one contender over them, the workload through it. Touches processes."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import uvloop

from bench.gateway.process import Child, StartError, free_port
from bench.routing_real.client import Asked, ask_all
from bench.routing_real.contenders import Contender, Engine
from headrace.simulator.trace import TraceRequest
from headrace.twin.sse import SseClient, Target

START_S: Final = 60.0
SETTLE_S: Final = 2.0
"""Between a contender's first answer and the first request: rivals connect to events meanwhile."""

DISTURBED_S: Final = 0.02
"""Lateness of the client's p99 beyond which the machine was busy with something else."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The engines of one run; ``time_scale`` is engine seconds per wall second."""

    hardware: str
    model: str
    engines: int
    time_scale: float
    seed: int

    def argv(self) -> list[str]:
        """Return the command that starts them."""
        options = {"hardware": self.hardware, "model": self.model, "count": self.engines}
        options |= {"time-scale": self.time_scale, "seed": self.seed}
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return [sys.executable, "-m", "headrace.simulator.http", "--kv-events", *flags]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave, and how many cores each side kept busy on average."""

    asked: Asked
    wall_s: float
    router_cores: float
    engine_cores: float
    client_cores: float

    @property
    def disturbed(self) -> bool:
        """Whether something else kept the machine so busy that our own timers rang late."""
        return self.asked.lateness.p99_s > DISTURBED_S


def run_once(
    contender: Contender, fleet: Fleet, workload: Sequence[TraceRequest], logs: Path
) -> Run:
    """Start the engines and the contender, ask for everything, stop both.

    Raises:
        StartError: if either does not come up.

    """
    logs.mkdir(parents=True, exist_ok=True)
    engines_log = logs / f"{contender.name}.engines.log"
    with ExitStack() as stack:
        engines = stack.enter_context(Child("engines", fleet.argv(), engines_log, core=None))
        told = engines_of(wait_for_text(engines_log, '{"event":"ready"', "engines"))
        port = free_port()
        argv = contender.argv(port, told)
        log = logs / f"{contender.name}.log"
        router = stack.enter_context(Child(contender.name, argv, log, core=None))
        url = f"http://127.0.0.1:{port}"
        router.wait_ready(url + contender.ready_path, START_S)
        wait_for_text(log, contender.ready_text, contender.name)
        time.sleep(SETTLE_S)
        own = psutil.Process()
        before = (router.cpu_s(), engines.cpu_s(), _cpu_s(own))
        started_s = time.perf_counter()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            asked = runner.run(_ask(url, fleet, workload))
        wall_s = time.perf_counter() - started_s
        after = (router.cpu_s(), engines.cpu_s(), _cpu_s(own))
    cores = [(end - start) / wall_s for start, end in zip(before, after, strict=True)]
    return Run(asked, wall_s, *cores)


async def _ask(url: str, fleet: Fleet, workload: Sequence[TraceRequest]) -> Asked:
    client = SseClient(Target.parse(url))
    try:
        return await ask_all(
            workload, client, model=fleet.model, time_scale=fleet.time_scale, seed=fleet.seed
        )
    finally:
        await client.close()


def wait_for_text(log: Path, text: str, who: str) -> str:
    """Wait for a whole line of ``log`` that holds ``text`` and return it.

    Raises:
        StartError: if it does not come.

    """
    deadline_s = time.monotonic() + START_S
    while text and time.monotonic() < deadline_s:
        for line in log.read_text().splitlines(keepends=True):
            if text in line and line.endswith("\n"):
                return line
        time.sleep(0.1)
    if not text:
        return ""
    raise StartError(f"{who} did not come up:\n{log.read_text()[-2_000:]}")


def engines_of(line: str) -> list[Engine]:
    """Read the line that the simulated engines print when they are ready."""
    return [
        Engine(**{name: each[name] for name in Engine.__slots__})
        for each in json.loads(line)["engines"]
    ]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
