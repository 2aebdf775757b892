"""``headrace fleet``: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.errors import readable_errors


def fleet(  # noqa: PLR0913 -- a command's options are its parameters
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Settings file; `headrace config show --kind fleet` prints one."
        ),
    ] = None,
    model_service: options.ModelServiceFile = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket", help="Unix socket by which gateways find the engines; needed but on Ray."
        ),
    ] = None,
    fleet: options.FleetName = None,
    address: options.RayAddress = None,
    engine: options.Engine = None,
    model: options.Model = None,
    replicas: options.Replicas = None,
    time_scale: options.TimeScale = None,
    hardware: options.Hardware = None,
    sim_model: options.SimModel = None,
    tp: options.Tp = None,
    log_level: options.LogLevel = None,
) -> None:
    """Keep engines running, for gateways that run apart; Ctrl-C drains and stops them."""
    with readable_errors():
        from headrace.cli import keeping  # noqa: PLC0415 -- start-up time

        flags = {
            "publish.socket": socket,
            "fleet.kind": fleet,
            "fleet.ray.address": address,
            "fleet.engine": engine,
            "fleet.model": model,
            "fleet.replicas": replicas,
            "fleet.time_scale": time_scale,
            "fleet.simulated.hardware": hardware,
            "fleet.simulated.model": sim_model,
            "fleet.tp": tp,
            "log.level": log_level,
        }
        ok = keeping.run(config, options.given(flags), model_service)
    if not ok:
        raise typer.Exit(1)
