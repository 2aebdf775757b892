"""``headrace gateway``: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.errors import readable_errors


def gateway(
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
