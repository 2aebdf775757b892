"""``headrace gateway``: what can be typed."""

from __future__ import annotations

from collections.abc import Mapping
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
    endpoints_file: Annotated[
        Path | None,
        typer.Option("--endpoints-file", help="File that lists the engines; read when it changes."),
    ] = None,
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket", help="Find the engines: of the `headrace fleet` that tells there."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Find the engines: on this Ray cluster; host:port, or auto."),
    ] = None,
    fleet_name: Annotated[
        str | None,
        typer.Option("--fleet-name", help="With --ray: of which fleet; default headrace."),
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

        ways = {"file": endpoints_file, "socket": socket, "ray": ray, "kubernetes": kube or None}
        flags = {
            "endpoints": [{"url": url} for url in endpoint] if endpoint else None,
            "discovery.kind": one_way(options.given(ways)),
            "discovery.path": endpoints_file or socket,
            "discovery.address": ray,
            "discovery.fleet": fleet_name,
            "discovery.namespace": namespace,
            "discovery.kubeconfig": kubeconfig,
            "gateway.host": host,
            "gateway.port": port,
            "router.policy": policy,
            "log.level": log_level,
        }
        ok = fronting.run(config, options.given(flags))
    if not ok:
        raise typer.Exit(1)


def one_way(ways: Mapping[str, object]) -> str | None:
    """Return the one kind of discovery that was asked for, or None.

    Raises:
        ConfigError: when there are several.

    """
    if len(ways) > 1:
        from headrace.core.errors import ConfigError  # noqa: PLC0415 -- start-up time

        raise ConfigError("--endpoints-file, --socket, --ray, --kube: only one of them")
    return next(iter(ways), None)
