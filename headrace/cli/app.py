"""The commands. Each imports what it runs only when it runs, so that ``--help`` is instant."""

from __future__ import annotations

from typing import Final

import typer

import headrace
from headrace.cli.commands import (
    config,
    controller,
    explain,
    fleet,
    gateway,
    replay,
    runtime,
    twin,
    up,
)

app: Final = typer.Typer(
    help="Headrace: a control plane for LLM inference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("up")(up.up)
app.command("gateway")(gateway.gateway)
app.command("fleet")(fleet.fleet)
app.command("replay")(replay.replay)
app.command("twin")(twin.twin)
app.command("explain")(explain.explain)
app.command("controller")(controller.controller)
app.command("runtime")(runtime.runtime)
app.command("fetch")(runtime.fetch)
app.add_typer(config.app, name="config")


@app.command("version")
def version() -> None:
    """Print the version."""
    typer.echo(f"headrace {headrace.__version__}")
