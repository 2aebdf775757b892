"""``headrace gateway``: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.errors import readable_errors


def gateway(  # noqa: PLR0913 -- a command's options are its parameters
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="Settings file; `headrace config show --kind gateway` prints one."
        ),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", help="URL of an engine; repeat it. Instead of the file's."),
    ] = None,
    kube: Annotated[
        bool,
        typer.Option("--kube", help="Find the engines: pods of a Kubernetes cluster."),
    ] = False,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="With --kube: only there, not everywhere."),
    ] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option("--kubeconfig", help="With --kube: how to reach the cluster from outside."),
    ] = None,
    host: options.Host = None,
    port: options.Port = None,
    policy: options.PolicyName = None,
    log_level: options.LogLevel = None,
) -> None:
    """Start a gateway over engines that run elsewhere, and leave them running."""
    with readable_errors():
        from headrace.cli import fronting  # noqa: PLC0415 -- start-up time

        flags = {
            "endpoints": [{"url": url} for url in endpoint] if endpoint else None,
            "discovery.kind": "kubernetes" if kube else None,
            "discovery.namespace": namespace,
            "discovery.kubeconfig": kubeconfig,
            "gateway.host": host,
            "gateway.port": port,
            "router.policy": policy,
            "log.level": log_level,
        }
        ok = fronting.run(
            config, {field: value for field, value in flags.items() if value is not None}
        )
    if not ok:
        raise typer.Exit(1)
