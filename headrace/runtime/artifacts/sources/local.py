"""Artifacts in a folder of this machine. Reads the disk, in threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from typing_extensions import override

from headrace.core.errors import ArtifactError
from headrace.runtime.artifacts.allowed import Uri
from headrace.runtime.artifacts.source import RemoteFile, Source

READ_BYTES: Final = 1 << 20


class LocalSource(Source):
    """A folder, or one file.

    Args:
        uri: Where it is.
        allow: What may be read: a link in the folder that leads anywhere else is refused.
        most_files: More are refused.

    """

    def __init__(self, uri: Uri, allow: tuple[Uri, ...], most_files: int) -> None:
        self._root = Path("/", *uri.path)
        self._allow = [Path("/", *prefix.path) for prefix in allow if prefix.scheme == "file"]
        self._most_files = most_files

    @override
    async def files(self) -> tuple[RemoteFile, ...]:
        try:
            return await asyncio.to_thread(lambda: tuple(self._listed()))
        except OSError as error:
            raise ArtifactError(f"{self._root}: {error.strerror}") from None

    @override
    async def read(self, file: RemoteFile, start: int, stop: int) -> AsyncIterator[bytes]:
        while start < stop:
            try:
                block = await asyncio.to_thread(self._block, file, start, stop)
            except OSError as error:
                raise ArtifactError(f"{self._root}: {error.strerror}") from None
            if not block:
                raise ArtifactError(f"{self._root}: {file.path} has become shorter")
            start += len(block)
            yield block

    def _listed(self) -> Iterator[RemoteFile]:
        if self._root.is_file():
            yield self._described(self._root, self._root.name)
            return
        count = 0
        for folder, _, names in os.walk(self._root, onerror=_fail):
            for name in names:
                count += 1
                if count > self._most_files:
                    raise ArtifactError(f"{self._root}: over {self._most_files} files")
                path = Path(folder, name)
                yield self._described(path, path.relative_to(self._root).as_posix())

    def _described(self, path: Path, name: str) -> RemoteFile:
        found = self._allowed(path).stat()
        return RemoteFile(name, found.st_size, f"{found.st_ino}-{found.st_mtime_ns}")

    def _allowed(self, path: Path) -> Path:
        real = path.resolve(strict=True)
        if not real.is_file() or not any(map(real.is_relative_to, self._allow)):
            raise ArtifactError(f"{path} is no file within artifacts.allow")
        return real

    def _block(self, file: RemoteFile, start: int, stop: int) -> bytes:
        path = self._root if self._root.is_file() else self._root / file.path
        with self._allowed(path).open("rb", buffering=0) as opened:
            return os.pread(opened.fileno(), min(READ_BYTES, stop - start), start)


def _fail(error: OSError) -> None:
    raise error
