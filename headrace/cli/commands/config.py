"""``headrace config``: what can be typed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from headrace.cli.errors import readable_errors

app: Final = typer.Typer(help="Check a file of settings or models, or show what can be set.")


class Kind(StrEnum):
    """What a file holds: settings of a command, or documents of a kind."""

    UP = "up"
    GATEWAY = "gateway"
    FLEET = "fleet"
    RUNTIME = "runtime"
    CONTROLLER = "controller"
    MODEL_SERVICE = "model-service"
    LORA_ADAPTER = "lora-adapter"


OF_DOCUMENTS: Final = (Kind.MODEL_SERVICE, Kind.LORA_ADAPTER)

KindOption = Annotated[
    Kind, typer.Option("--kind", help="Which command the file is for, or what it describes.")
]


@app.command("check")
def check(
    file: Annotated[
        Path, typer.Argument(help="A YAML file of settings, or of ModelServices and LoraAdapters.")
    ],
    kind: KindOption = Kind.UP,
) -> None:
    """Read a file, list every problem in it, and print what it amounts to.

    A file of ModelServices and LoraAdapters needs no --kind: its documents name theirs.
    """
    with readable_errors():
        from headrace.cli import documents  # noqa: PLC0415 -- start-up time
        from headrace.cli.config import KINDS  # noqa: PLC0415
        from headrace.core.errors import ConfigError  # noqa: PLC0415
        from headrace.service.settings import describe, load_settings  # noqa: PLC0415

        found = documents.load(file)
        if found is None and kind in OF_DOCUMENTS:
            raise ConfigError(f"{file}: expected documents with apiVersion and kind")
        if found is None:
            typer.echo(describe(load_settings(KINDS[kind], file)), nl=False)
        else:
            typer.echo(documents.filled(found), nl=False)
            for other in found.others:
                typer.echo(f"{file}: {other}: not ours, not checked", err=True)
        typer.echo(f"{file}: ok", err=True)


@app.command("show")
def show(kind: KindOption = Kind.UP) -> None:
    """Print every field with its default and what it means, as a file to start from."""
    with readable_errors():
        from headrace.cli import documents  # noqa: PLC0415 -- start-up time
        from headrace.cli.config import KINDS  # noqa: PLC0415
        from headrace.cli.documented import documented  # noqa: PLC0415

        of_documents = kind in OF_DOCUMENTS
        text = documents.to_start_from(kind) if of_documents else documented(KINDS[kind])
        typer.echo(text, nl=False)


@app.command("schema")
def schema(kind: KindOption = Kind.UP) -> None:
    """Print the JSON Schema, for editors and other tools."""
    with readable_errors():
        import json  # noqa: PLC0415 -- start-up time

        from headrace.cli import documents  # noqa: PLC0415
        from headrace.cli.config import KINDS  # noqa: PLC0415

        of_documents = kind in OF_DOCUMENTS
        made = documents.json_schema(kind) if of_documents else KINDS[kind].model_json_schema()
        typer.echo(json.dumps(made, indent=2, ensure_ascii=False))
