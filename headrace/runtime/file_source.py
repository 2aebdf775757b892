"""A file that lists endpoints, read again whenever it changes. Reads the file system, in threads.

What is bad or gone later leaves the last good list in force.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from typing_extensions import override

from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView
from headrace.core.errors import ConfigError
from headrace.runtime.discovery import EndpointSource, ListSource
from headrace.runtime.listing import LISTING_BYTES, read_listing
from headrace.service.log import get_logger

_log = get_logger("endpoints")

LOOK_S: Final = 1.0
"""Between two looks at whether the file changed."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one content of a file from another without reading it.

    Links are followed: a ConfigMap is exchanged by pointing one elsewhere.
    """

    mtime_ns: int
    size_bytes: int
    inode: int


def due(now: Stamp, seen: Stamp | None, read: Stamp | None) -> bool:
    """Return whether to read a file again.

    Another file in its place is read at once: whoever put it there had finished it. One that is
    being written in place is read when it has been still between two looks: half of a list may well
    be a list.

    Args:
        now: As it is.
        seen: As it was at the last look.
        read: As it was when last read; None when it has gone since.

    """
    if now == read:
        return False
    return read is None or now.inode != read.inode or now == seen


class FileSource(EndpointSource):
    """What a file lists. ``load`` reads it once; it is followed while ``run`` runs."""

    def __init__(self, path: Path, clock: Clock, look_s: float = LOOK_S) -> None:
        self._path = path
        self._clock = clock
        self._look_s = look_s
        self._list = ListSource()
        self._seen: Stamp | None = None
        self._read: Stamp | None = None
        self._bad = b""
        self._problem = ""

    @override
    def endpoints(self) -> list[EndpointView]:
        return self._list.endpoints()

    @override
    async def changed(self) -> None:
        await self._list.changed()

    @property
    @override
    def away(self) -> bool:
        return bool(self._problem)

    @property
    def problem(self) -> str:
        """What is wrong with the file as it is now: the list is an older one; empty if nothing."""
        return self._problem

    async def load(self) -> None:
        """Read the file.

        Raises:
            ConfigError: with all that is wrong with it.

        """
        try:
            stamp, text = await asyncio.to_thread(_content, self._path)
            views = await asyncio.to_thread(read_listing, text)
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be read: {error.strerror}") from None
        except ConfigError as error:
            raise ConfigError(f"{self._path}: {error}") from None
        self._read = self._seen = stamp
        self._list.replace(views)

    async def run(self) -> None:
        """Follow the file until cancelled."""
        while True:
            await self._clock.sleep(self._look_s)
            await self._look()

    async def _look(self) -> None:
        try:
            stamp = await asyncio.to_thread(_stamp, self._path)
            if due(stamp, self._seen, self._read):
                self._read, text = await asyncio.to_thread(_content, self._path)
                await self._take(text)
            self._seen = stamp
        except OSError as error:
            self._seen = self._read = None
            self._warn(f"cannot be read: {error.strerror}", b"")

    async def _take(self, text: bytes) -> None:
        try:
            views = await asyncio.to_thread(read_listing, text)
        except ConfigError as error:
            self._warn(str(error), sha256(text).digest())
            return
        self._list.replace(views)
        self._problem, self._bad = "", b""
        _log.info("endpoints_file_read", file=str(self._path), endpoints=len(views))

    def _warn(self, why: str, content: bytes) -> None:
        """Say what is wrong, once for each content."""
        if (why, content) != (self._problem, self._bad):
            effect = "the last good list stays in use"
            _log.warning("endpoints_file_bad", file=str(self._path), why=why, effect=effect)
        self._problem, self._bad = why, content


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return Stamp(found.st_mtime_ns, found.st_size, found.st_ino)


def _content(path: Path) -> tuple[Stamp, bytes]:
    """Return what a file holds, and its stamp from before: should it change meanwhile, it shows."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        stamp = Stamp(found.st_mtime_ns, found.st_size, found.st_ino)
        return stamp, file.read(LISTING_BYTES + 1)
