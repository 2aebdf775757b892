"""What a place that keeps artifacts can do, and what is believed of it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from headrace.core.errors import ArtifactError

MOST_PATH_CHARS: Final = 1_024


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of an artifact where it is kept.

    Attributes:
        path: Within the artifact, with ``/`` between.
        size_bytes: Its length.
        version: Changes when the file does (an ETag, a time); empty where nothing tells.
        ranged: Whether parts of it can be read.
        sha256: As its keeper says, in hex; None where it does not.

    """

    path: str
    size_bytes: int
    version: str = ""
    ranged: bool = True
    sha256: str | None = None


class Source(Protocol):
    """One artifact where it is kept."""

    async def files(self) -> tuple[RemoteFile, ...]:
        """Return its files.

        Raises:
            ArtifactError: if there is nothing, or it cannot be listed.

        """
        ...

    def read(self, file: RemoteFile, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop``; fewer if the connection breaks.

        Raises:
            ArtifactError: if it breaks, or the file is not what was listed.

        """
        ...


def checked(files: Iterable[RemoteFile], where: str, most: int) -> tuple[RemoteFile, ...]:
    """Return the files in order of path if they can lie in a folder of ours.

    Raises:
        ArtifactError: if there are none or too many, or a path would lead out of the folder.

    """
    found = sorted(files, key=lambda file: file.path)
    if not found:
        raise ArtifactError(f"{where}: there are no files")
    if len(found) > most:
        raise ArtifactError(f"{where}: {len(found)} files; artifacts.files allows {most}")
    taken: set[str] = set()
    for file in found:
        parts = file.path.split("/")
        plain = file.path.isprintable() and "\\" not in file.path
        if not plain or len(file.path) > MOST_PATH_CHARS or not all(map(_is_name, parts)):
            raise ArtifactError(f"{where}: a file called {file.path[:200]!r}")
        folders = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if file.path in taken or folders & taken:
            raise ArtifactError(f"{where}: two files called {file.path!r}")
        taken.add(file.path)
    return tuple(found)


def listing_key(files: Iterable[RemoteFile]) -> str:
    """Return a value that changes when any file is added, removed or changed, in hex."""
    total = hashlib.sha256()
    for file in files:
        line = f"{file.path}\0{file.size_bytes}\0{file.version}\0{file.sha256}\n"
        total.update(line.encode())
    return total.hexdigest()


def can_change_unseen(files: Iterable[RemoteFile]) -> bool:
    """Return whether some file could change without ``listing_key`` doing so."""
    return any(not file.version and file.sha256 is None for file in files)


def _is_name(part: str) -> bool:
    return bool(part) and part not in (".", "..")
