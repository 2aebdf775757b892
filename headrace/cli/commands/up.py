"""``headrace up``: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.errors import readable_errors

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings file; `headrace config show` prints one.")
]
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


def up(  # noqa: PLR0913 -- a command's options are its parameters
    *,
    config: ConfigFile = None,
    model_service: ModelServiceFile = None,
    fleet: FleetName = None,
    address: RayAddress = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="simulated (the default) or vllm.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="vLLM: a path or a hub id. Simulated: a name.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, help="Engines to start; default 4.")
    ] = None,
    host: options.Host = None,
    port: options.Port = None,
    policy: options.PolicyName = None,
    time_scale: Annotated[
        float | None,
        typer.Option("--time-scale", help="Simulated: engine seconds per wall second."),
    ] = None,
    hardware: Annotated[
        str | None, typer.Option("--hardware", help="Simulated: card of each engine.")
    ] = None,
    sim_model: Annotated[
        str | None, typer.Option("--sim-model", help="Simulated: shape of the model.")
    ] = None,
    tp: Annotated[
        int | None, typer.Option("--tp", min=1, help="Cards per engine (tensor parallel).")
    ] = None,
    log_level: options.LogLevel = None,
) -> None:
    """Start a gateway and its engines; Ctrl-C stops everything it started."""
    with readable_errors():
        from headrace.cli import serving  # noqa: PLC0415 -- start-up time

        flags = {
            "fleet.kind": fleet,
            "fleet.ray.address": address,
            "fleet.engine": engine,
            "fleet.model": model,
            "fleet.replicas": replicas,
            "gateway.host": host,
            "gateway.port": port,
            "router.policy": policy,
            "fleet.time_scale": time_scale,
            "fleet.simulated.hardware": hardware,
            "fleet.simulated.model": sim_model,
            "fleet.tp": tp,
            "log.level": log_level,
        }
        ok = serving.run(
            config,
            {field: value for field, value in flags.items() if value is not None},
            model_service,
        )
    if not ok:
        raise typer.Exit(1)
