"""Reads the file that holds the bearer key of an endpoint. Reads one file."""

from __future__ import annotations

from pathlib import Path

from headrace.core.errors import ConfigError


def read_key(path: Path | None) -> str | None:
    """Return the key in ``path``; None without one.

    Raises:
        ConfigError: if the file cannot be read.

    """
    if path is None:
        return None
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api-key-file: cannot read {path}: {error}") from None
