"""What a streamed chunk costs a process of simulated engines: `python -m bench.simulator_http`.

The engines are the load target of other benchmarks, so they must not be the bottleneck there.
Clients and engines share the machine; only the engines' CPU time is counted, kernel included.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Final

import psutil
import uvloop
from rich.console import Console

from bench.result import Goal, Result, write_result

ENGINES: Final = 4
REPEATS: Final = 5
OUTPUT_TOKENS: Final = 300
CASES: Final = {"wide": 64, "narrow": 8}
"""Streams per engine: a step's own cost is shared by as many chunks."""


@dataclass(frozen=True, slots=True)
class Run:
    """One repeat."""

    chunks_per_s: float
    cpu_us_per_chunk: float


async def stream(port: int, prompt: str) -> int:
    """Read one stream to its end; return how many events came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(
        {"prompt": prompt, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True, "stream": True}
    ).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    events = 0
    while True:
        data = await reader.read(1 << 16)
        events += data.count(b"\n\n")
        if not data or data.endswith(b"0\r\n\r\n"):
            break
    writer.close()
    assert events == OUTPUT_TOKENS + 1, f"a stream ended after {events} events"
    return events


async def measure(process: psutil.Process, ports: list[int], streams: int, repeat: int) -> Run:
    """Run ``streams`` streams on every engine at once."""
    before, begun_s = process.cpu_times(), time.perf_counter()
    events = await asyncio.gather(
        *(
            stream(port, f"{repeat:04d}{index:04d}" + "word" * 100)
            for port in ports
            for index in range(streams)
        )
    )
    wall_s, after = time.perf_counter() - begun_s, process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return Run(sum(events) / wall_s, cpu_s / sum(events) * 1e6)


def main() -> int:
    """Start the engines, measure, write the result."""
    command = [sys.executable, "-m", "headrace.simulator.http", "--count", str(ENGINES)]
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    with subprocess.Popen([*command, "--time-scale", "4"], stdout=subprocess.PIPE) as engines:
        try:
            assert engines.stdout is not None
            told = json.loads(engines.stdout.readline())["engines"]
            ports = [int(engine["url"].rpartition(":")[2]) for engine in told]
            process = psutil.Process(engines.pid)
            for case, streams in CASES.items():
                runs = [
                    uvloop.run(measure(process, ports, streams, repeat))
                    for repeat in range(REPEATS + 1)
                ][1:]  # the first warms up
                for name in ("chunks_per_s", "cpu_us_per_chunk"):
                    values = [getattr(run, name) for run in runs]
                    figures[f"{case}.{name}"] = median(values)
                    spread[f"{case}.{name}"] = (min(values), max(values))
            figures["rss_mib"] = process.memory_info().rss / 2**20
        finally:
            engines.terminate()
    path = write_result(
        Result(
            name="simulator-http",
            question="What does a streamed chunk cost a process of simulated engines?",
            command="python -m bench.simulator_http",
            figures=figures,
            spread=spread,
            goals=(Goal("SIM-CHUNK", "wide.cpu_us_per_chunk", "<=", 15.0),),
            notes=(
                f"{ENGINES} engines in one process, {CASES['wide']} (wide) or {CASES['narrow']} "
                f"(narrow) streams each; medians of {REPEATS} repeats.",
                "Time scale 4, so that the CPU is busy; most of a chunk is the kernel's send.",
            ),
        )
    )
    Console().print_json(data=figures)
    Console().print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
