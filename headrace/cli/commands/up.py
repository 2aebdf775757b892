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


def up(  # noqa: PLR0913 -- a command's options are its parameters
    *,
    config: ConfigFile = None,
    model_service: options.ModelServiceFile = None,
    fleet: options.FleetName = None,
    address: options.RayAddress = None,
    engine: options.Engine = None,
    model: options.Model = None,
    replicas: options.Replicas = None,
    host: options.Host = None,
    port: options.Port = None,
    policy: options.PolicyName = None,
    time_scale: options.TimeScale = None,
    hardware: options.Hardware = None,
    sim_model: options.SimModel = None,
    tp: options.Tp = None,
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
        ok = serving.run(config, options.given(flags), model_service)
    if not ok:
        raise typer.Exit(1)
