"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

TraceFile = Annotated[
    Path | None,
    typer.Option(
        "--trace", help="A trace to replay: Mooncake JSONL, Azure CSV, or arrivals as JSONL."
    ),
]
WorkloadName = Annotated[
    str,
    typer.Option(
        "--workload",
        help="Without a trace: a synthetic workload: conversation, agents, code or bursts.",
    ),
]
Rate = Annotated[
    float,
    typer.Option("--rate", min=0.001, help="Requests per second of a synthetic workload."),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes", min=0.01, help="Only its first minutes, in engine time; synthetic: 10."
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only its first requests.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, help="Same seed, same requests at the same times.")
]
SloTtft = Annotated[
    float, typer.Option("--slo-ttft", min=0.0, help="Goodput: limit of TTFT, engine seconds.")
]
SloTpot = Annotated[
    float, typer.Option("--slo-tpot", min=0.0, help="Goodput: limit of TPOT, engine seconds.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Also write the figures to this file.")
]
PlotFile = Annotated[
    Path | None,
    typer.Option("--plot", help="Also draw them to this PNG (needs headrace\\[report])."),
]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")]
PolicyName = Annotated[str | None, typer.Option("--policy", help="Routing policy.")]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")]

ModelServiceFile = Annotated[
    Path | None,
    typer.Option(
        "--model-service",
        "-f",
        help="A file with a ModelService, as `kubectl apply -f` takes it, to serve here.",
    ),
]
FleetName = Annotated[
    str | None, typer.Option("--fleet", help="Where engines run: local (the default) or ray.")
]
RayAddress = Annotated[
    str | None, typer.Option("--address", help="Ray: host:port of the head; auto is the default.")
]
Engine = Annotated[str | None, typer.Option("--engine", help="simulated (the default) or vllm.")]
Model = Annotated[
    str | None, typer.Option("--model", help="vLLM: a path or a hub id. Simulated: a name.")
]
Replicas = Annotated[
    int | None, typer.Option("--replicas", min=1, help="Engines to start; default 4.")
]
TimeScale = Annotated[
    float | None, typer.Option("--time-scale", help="Simulated: engine seconds per wall second.")
]
Hardware = Annotated[str | None, typer.Option("--hardware", help="Simulated: card of each engine.")]
SimModel = Annotated[str | None, typer.Option("--sim-model", help="Simulated: shape of the model.")]
Tp = Annotated[int | None, typer.Option("--tp", min=1, help="Cards per engine (tensor parallel).")]


def given(flags: Mapping[str, object]) -> dict[str, object]:
    """Return the options that were typed, by dotted field."""
    return {field: value for field, value in flags.items() if value is not None}
