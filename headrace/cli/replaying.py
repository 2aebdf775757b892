"""What ``headrace replay`` does: load, send with a progress bar, report."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from headrace.cli.keyfile import read_key
from headrace.cli.output import Run, check_writable, write
from headrace.core.slo import SloTarget
from headrace.simulator.trace import TraceRequest
from headrace.twin.ideal import ideal_hit_ratio
from headrace.twin.replay import ReplayResult, ReplaySettings, Tally, replay, served_model
from headrace.twin.report import offered_span_s, summarise
from headrace.twin.sse import SseClient, Target
from headrace.twin.workloads import WorkloadChoice

REFRESH_S: Final = 0.25
"""How often the bar is drawn, in wall seconds: often enough to watch, too seldom to cost."""


@dataclass(frozen=True, slots=True)
class Replaying:
    """One replay as asked for; a model of "" means the first that the endpoint lists."""

    url: str
    api_key_file: Path | None
    choice: WorkloadChoice
    settings: ReplaySettings
    slo: SloTarget
    json_path: Path | None
    plot_path: Path | None


def run(asked: Replaying) -> bool:
    """Replay and report; returns whether every request was served.

    Raises:
        ConfigError: if something asked for cannot be done.

    """
    check_writable(asked.json_path, "json")
    check_writable(asked.plot_path, "plot")
    target = Target.parse(asked.url, api_key=read_key(asked.api_key_file))
    workload = asked.choice.load()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        settings, result = runner.run(_replay(asked, target, workload))
    sent = workload[: len(result.records)]  # all of it, unless stopped
    report = summarise(
        "replay",
        result.records,
        slo=asked.slo,
        ideal_hit_ratio=ideal_hit_ratio(sent),
        span_s=offered_span_s(sent),
    )
    late = result.lateness
    scale = settings.time_scale
    write(
        [Run(report, result.records)],
        title=f"{asked.choice.name} at {scale:g}x through {asked.url} ({settings.model})",
        note=(
            f"In engine seconds: wall seconds times {scale:g}. "
            f"{result.wall_s:.1f} wall seconds; the client sent late by "
            f"p50 {late.p50_s * 1e3:.1f}, p99 {late.p99_s * 1e3:.1f}, "
            f"at most {late.max_s * 1e3:.1f} wall ms."
        ),
        facts=_facts(asked, settings, result),
        json_path=asked.json_path,
        plot_path=asked.plot_path,
    )
    return report.failed == 0


def _facts(asked: Replaying, settings: ReplaySettings, result: ReplayResult) -> dict[str, object]:
    return {
        "name": "replay",
        "url": asked.url,
        "model": settings.model,
        "workload": asked.choice.facts(),
        "time_scale": settings.time_scale,
        "slo": {"ttft_s": asked.slo.ttft_s, "tpot_s": asked.slo.tpot_s},
        "wall_s": round(result.wall_s, 3),
        "client_late_wall_s": {
            "p50": round(result.lateness.p50_s, 6),
            "p99": round(result.lateness.p99_s, 6),
            "max": round(result.lateness.max_s, 6),
        },
    }


async def _replay(
    asked: Replaying, target: Target, workload: Sequence[TraceRequest]
) -> tuple[ReplaySettings, ReplayResult]:
    """Send the workload until it ends or the first Ctrl-C."""
    client = SseClient(target)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        model = asked.settings.model or await served_model(client)
        settings = replace(asked.settings, model=model)
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stop.set)
        tally = Tally()
        bar = asyncio.create_task(_draw(tally, len(workload)))
        try:
            result = await replay(workload, client, settings, tally=tally, stop=stop)
        finally:
            bar.cancel()
            await asyncio.wait((bar,))
        return settings, result
    finally:
        await client.close()


async def _draw(tally: Tally, total: int) -> None:
    columns = (
        TextColumn("{task.completed}/{task.total} replayed"),
        BarColumn(),
        TextColumn("{task.fields[inflight]} in flight, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failure]}"),
    )
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        row = progress.add_task("", total=total, inflight=0, failed=0, failure="")
        try:
            while True:
                await asyncio.sleep(REFRESH_S)
                _show(progress, row, tally)
                progress.refresh()
        finally:
            _show(progress, row, tally)


def _show(progress: Progress, row: object, tally: Tally) -> None:
    progress.update(
        row,  # type: ignore[arg-type]
        completed=tally.ended,
        inflight=tally.sent - tally.ended,
        failed=tally.failed,
        failure=tally.last_failure[:60],
    )
