"""``headrace config``: what can be typed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from headrace.cli.errors import readable_errors

app: Final = typer.Typer(help="Check a settings file, or show what can be set.")


class Kind(StrEnum):
    """Which process a settings file is for."""

    UP = "up"
    GATEWAY = "gateway"
    RUNTIME = "runtime"


KindOption = Annotated[Kind, typer.Option("--kind", help="Which command the file is for.")]


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A YAML file of settings.")],
    kind: KindOption = Kind.UP,
) -> None:
    """Read a settings file, list every problem in it, and print what it amounts to."""
    with readable_errors():
        from headrace.cli.config import KINDS  # noqa: PLC0415 -- start-up time
        from headrace.service.settings import describe, load_settings  # noqa: PLC0415

        settings = load_settings(KINDS[kind], file)
        typer.echo(describe(settings), nl=False)
        typer.echo(f"{file}: ok", err=True)


@app.command("show")
def show(kind: KindOption = Kind.UP) -> None:
    """Print every setting with its default and what it means, as a file to start from."""
    with readable_errors():
        from headrace.cli.config import KINDS  # noqa: PLC0415 -- start-up time
        from headrace.cli.documented import documented  # noqa: PLC0415

        typer.echo(documented(KINDS[kind]), nl=False)
