"""``headrace replay``: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.errors import readable_errors


def replay(  # noqa: PLR0913 -- a command's options are its parameters
    *,
    url: Annotated[
        str, typer.Option("--url", help="Base URL of any OpenAI endpoint.")
    ] = "http://127.0.0.1:8080",
    trace: options.TraceFile = None,
    workload: options.WorkloadName = "conversation",
    rate: options.Rate = 4.0,
    time_scale: Annotated[
        float,
        typer.Option(
            "--time-scale", min=0.01, help="Engine seconds per wall second; as the endpoint's own."
        ),
    ] = 1.0,
    minutes: options.Minutes = None,
    limit: options.Limit = None,
    seed: options.Seed = 1,
    model: Annotated[
        str | None, typer.Option("--model", help="Default: the first that the endpoint lists.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Send chat messages instead of text prompts.")
    ] = False,
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos/--no-ignore-eos",
            help="Ask for exactly the trace's output lengths (vLLM's extension).",
        ),
    ] = True,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File holding a bearer key.")
    ] = None,
    slo_ttft: options.SloTtft = 2.0,
    slo_tpot: options.SloTpot = 0.05,
    json: options.JsonFile = None,
    plot: options.PlotFile = None,
) -> None:
    """Drive an OpenAI endpoint from a trace and report latency, hits and goodput.

    Prompts are made so that requests share the prefixes that the trace says they shared. Arrivals
    keep to the trace's schedule whether or not earlier requests have ended.
    """
    with readable_errors():
        from headrace.cli import replaying  # noqa: PLC0415 -- start-up time
        from headrace.core.slo import SloTarget  # noqa: PLC0415
        from headrace.twin.replay import ReplaySettings  # noqa: PLC0415
        from headrace.twin.workloads import WorkloadChoice  # noqa: PLC0415

        ok = replaying.run(
            replaying.Replaying(
                url=url,
                api_key_file=api_key_file,
                choice=WorkloadChoice(trace, workload, rate, minutes, limit, seed),
                settings=ReplaySettings(model or "", time_scale, seed, chat, ignore_eos),
                slo=SloTarget(ttft_s=slo_ttft, tpot_s=slo_tpot),
                json_path=json,
                plot_path=plot,
            )
        )
    if not ok:
        raise typer.Exit(1)
