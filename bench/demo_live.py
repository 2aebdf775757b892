"""One live run of the demo: `headrace up` in a process of its own, and the workload through it."""

from __future__ import annotations

import asyncio
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import uvloop

from headrace.core.errors import ConfigError
from headrace.simulator.trace import TraceRequest
from headrace.twin.replay import ReplayResult, ReplaySettings, Tally, replay, served_model
from headrace.twin.sse import SseClient, Target

START_S = 60.0
STOP_S = 60.0
DISTURBED_S = 0.02
"""Lateness of the client's p99 beyond which a run says more of the machine than of us: on two
cores of its own it is 5 to 8 wall milliseconds."""


@dataclass(frozen=True)
class Live:
    """What one run gave, and how many cores it kept busy on average.

    ``gateway_cores`` is the process of `headrace up`; ``engine_cores`` all that it started.
    """

    result: ReplayResult
    gateway_cores: float
    engine_cores: float
    client_cores: float

    @property
    def disturbed(self) -> bool:
        """Whether something else kept the machine so busy that our own timers rang late."""
        return self.result.lateness.p99_s > DISTURBED_S


@dataclass(frozen=True)
class Serving:
    """A running `headrace up`."""

    url: str
    process: psutil.Process

    def cpu_s(self) -> tuple[float, float]:
        """CPU seconds so far: of the gateway, and of everything it started."""
        started = self.process.children(recursive=True)
        return _cpu_s(self.process), sum(_cpu_s(child) for child in started)


def run_live(
    workload: Sequence[TraceRequest], fleet: Sequence[str], *, time_scale: float, seed: int
) -> Live:
    """Start a fresh fleet with the options ``fleet``, replay ``workload``, stop the fleet."""
    with serving([*fleet, "--time-scale", str(time_scale)]) as up:
        own = psutil.Process()
        before, before_own, started_s = up.cpu_s(), _cpu_s(own), time.perf_counter()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(_replay(workload, up.url, time_scale, seed))
        wall_s = time.perf_counter() - started_s
        after, after_own = up.cpu_s(), _cpu_s(own)
    return Live(
        result,
        gateway_cores=(after[0] - before[0]) / wall_s,
        engine_cores=(after[1] - before[1]) / wall_s,
        client_cores=(after_own - before_own) / wall_s,
    )


async def _replay(
    workload: Sequence[TraceRequest], url: str, time_scale: float, seed: int
) -> ReplayResult:
    client = SseClient(Target.parse(url))
    tally = Tally()
    told = asyncio.create_task(_tell(tally, len(workload)))  # a bar would cost the cores measured
    try:
        settings = ReplaySettings(await served_model(client), time_scale, seed)
        return await replay(workload, client, settings, tally=tally)
    finally:
        told.cancel()
        await client.close()


async def _tell(tally: Tally, total: int) -> None:
    """Rewrite one line each second on a terminal, write one every half minute elsewhere."""
    on_terminal = sys.stderr.isatty()
    while True:
        await asyncio.sleep(1.0 if on_terminal else 30.0)
        inflight = tally.sent - tally.ended
        line = f"  {tally.ended}/{total} ended, {inflight} in flight, {tally.failed} failed   "
        print(line, end="\r" if on_terminal else "\n", file=sys.stderr, flush=True)


@contextmanager
def serving(options: Sequence[str], log: Path = Path(".cache/demo-up.log")) -> Iterator[Serving]:
    """Run `headrace up` until the block ends; all its endpoints are ready when it begins."""
    log.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "headrace.cli", "up", "--port", "0", *options]
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            url = _wait_until_ready(process.stdout, log)
            yield Serving(url, psutil.Process(process.pid))
        finally:
            _stop(process)


def _wait_until_ready(out: IO[bytes], log: Path) -> str:
    """Read what `headrace up` prints until it says that every endpoint is ready."""
    deadline_s = time.monotonic() + START_S
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        while b"endpoints are ready" not in text:
            if not selector.select(deadline_s - time.monotonic()):
                raise ConfigError(f"headrace up was not ready in {START_S:.0f} s; see {log}")
            piece = os.read(out.fileno(), 65_536)
            if not piece:
                raise ConfigError(f"headrace up ended before it was ready; see {log}")
            text += piece
    found = re.search(rb"http://[0-9.]+:\d+", text)
    assert found is not None
    return found.group().decode()


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
