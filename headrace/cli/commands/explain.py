"""``headrace explain``: what can be typed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.errors import readable_errors


def explain(  # noqa: PLR0913 -- a command's options are its parameters
    request_id: Annotated[
        str | None, typer.Argument(help="The X-Request-Id of a request that was served.")
    ] = None,
    *,
    url: Annotated[
        str, typer.Option("--url", help="Base URL of the gateway that served it.")
    ] = "http://127.0.0.1:8080",
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Instead: a decision as the gateway answers it; - reads it."),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="Also: what this policy would have chosen on the same."),
    ] = None,
    top: Annotated[
        int, typer.Option("--top", min=1, help="Only the best of the candidates in the tables.")
    ] = 20,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File holding a bearer key.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON instead.")] = False,
) -> None:
    """Tell why a request went where it went, and decide again on what was recorded.

    Exits with 1 if deciding again gives anything else than what was recorded.
    """
    with readable_errors():
        from headrace.cli import explain as explaining  # noqa: PLC0415 -- start-up time

        same = explaining.run(
            explaining.Explaining(request_id, url, file, policy, top, api_key_file, json)
        )
    if not same:
        raise typer.Exit(1)
