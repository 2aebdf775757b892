"""``headrace controller``: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.errors import readable_errors


def controller(  # noqa: PLR0913 -- a command's options are its parameters
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="Settings file; `headrace config show --kind controller` prints one.",
        ),
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option("--kubeconfig", help="How to reach the API server.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="The only one to look at.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", help="Headrace's own image, for the pods it makes.")
    ] = None,
    lease: Annotated[
        bool | None,
        typer.Option("--lease/--no-lease", help="Wait for one's turn among several controllers."),
    ] = None,
    host: options.Host = None,
    port: options.Port = None,
    log_level: options.LogLevel = None,
) -> None:
    """Keep every ModelService of a Kubernetes cluster as it asks to be."""
    with readable_errors():
        from headrace.cli import controlling  # noqa: PLC0415 -- start-up time

        flags = {
            "kubeconfig": kubeconfig,
            "namespace": namespace,
            "image": image,
            "lease.enabled": lease,
            "host": host,
            "port": port,
            "log.level": log_level,
        }
        controlling.run(
            config, {field: value for field, value in flags.items() if value is not None}
        )
