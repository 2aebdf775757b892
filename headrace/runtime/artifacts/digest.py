"""The digest of an artifact: one value over a folder's files, whatever fetched them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from headrace.core.errors import InvalidRequest

PREFIX_CHARS: Final = 32
"""Hex digits of a digest in a folder's name: 128 bits, so that nobody can make two that meet."""

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file: its path within the artifact with ``/`` between, its size, its SHA-256 in hex."""

    path: str
    size_bytes: int
    sha256: str


def folder_digest(files: Iterable[FileDigest]) -> str:
    r"""Return ``sha256:`` and the SHA-256 over the files in order of path.

    Each file adds one line ``PATH\0SIZE\0SHA256\n`` in UTF-8; folders without files add nothing.
    """
    total = sha256()
    for file in sorted(files, key=lambda file: file.path):
        total.update(f"{file.path}\0{file.size_bytes}\0{file.sha256}\n".encode())
    return f"sha256:{total.hexdigest()}"


def check_digest(digest: str) -> str:
    """Return ``digest`` if it is one.

    Raises:
        InvalidRequest: otherwise.

    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest(
            f"digest: expected sha256: and 64 lower-case hex digits, found {digest[:100]!r}",
            field="digest",
        )
    return digest


def folder_name(digest: str) -> str:
    """Return what the folder of an artifact of this digest is called."""
    return digest.removeprefix("sha256:")[:PREFIX_CHARS]
