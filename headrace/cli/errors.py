"""How what went wrong is told to whoever typed the command. Writes to standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from headrace.core.errors import ConfigError, HeadraceError

BAD_SETTINGS: Final = 2
"""Exit status; the same as for an option that does not exist."""


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn our errors into their message on standard error: exit status 2 for settings, else 1."""
    try:
        yield
    except HeadraceError as error:
        typer.echo(f"headrace: {error}", err=True)
        raise typer.Exit(BAD_SETTINGS if isinstance(error, ConfigError) else 1) from None
