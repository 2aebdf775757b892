"""Downloads one artifact in ranges, several at once, and goes on where it broke off.

Touches the disk, the clock, and the source that it is given.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from headrace.core.clock import Clock
from headrace.core.errors import ArtifactError, HeadraceError
from headrace.runtime.artifacts.config import ArtifactSettings
from headrace.runtime.artifacts.digest import FileDigest
from headrace.runtime.artifacts.source import RemoteFile, Source
from headrace.service.log import get_logger

_log = get_logger("artifacts")

WRITE_BYTES: Final = 1 << 20
"""Bytes gathered before they are written, each time in a thread."""

HASHES_AT_ONCE: Final = 4
"""Files whose digest is taken at the same time; SHA-256 runs at about the speed of a disk."""


@dataclass(frozen=True, slots=True)
class Part:
    """A range of one file; the whole of it where the source has no ranges."""

    file: int
    start: int
    stop: int

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.stop - self.start


class Plan(msgspec.Struct, frozen=True):
    """What is to be downloaded and in which ranges; one that is equal may be gone on with."""

    source: str
    files: tuple[tuple[str, int, str, str | None], ...]
    part_bytes: int


def plan_of(source: str, files: tuple[RemoteFile, ...], part_bytes: int) -> bytes:
    """Return the plan as it is kept beside the parts."""
    told = tuple((file.path, file.size_bytes, file.version, file.sha256) for file in files)
    return msgspec.json.encode(Plan(source, told, part_bytes))


def parts_of(files: tuple[RemoteFile, ...], part_bytes: int) -> Iterator[Part]:
    """Yield the ranges in order."""
    for index, file in enumerate(files):
        if not file.ranged:
            yield Part(index, 0, file.size_bytes)
            continue
        for start in range(0, file.size_bytes, part_bytes):
            yield Part(index, start, min(start + part_bytes, file.size_bytes))


class Journal:
    """Which parts are on disk: one line each, written after the part itself."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> set[Part]:
        """Return the parts that are done; a line that was cut short is none."""
        try:
            lines = self._file.read_text(encoding="ascii").splitlines(keepends=True)
        except (FileNotFoundError, UnicodeDecodeError):
            return set()
        words = [line.split() for line in lines if line.endswith("\n")]
        numbers = [row for row in words if len(row) == 3 and all(map(str.isdigit, row))]
        return {Part(*map(int, row)) for row in numbers}

    def add(self, part: Part) -> None:
        """Note a part; a crash before this only costs the part."""
        with self._file.open("a", encoding="ascii") as opened:
            opened.write(f"{part.file} {part.start} {part.stop}\n")


class Download:
    """One artifact on its way into a folder.

    Args:
        source: Where it is kept.
        files: What it listed.
        partial: The folder: files go into ``files/`` below it.
        settings: Of the ranges and of the attempts at them.
        slots: Held while a range is read; shared by all downloads of a process.
        clock: For waiting between attempts.
        rng: For spreading those waits.
        got: Called with the number of bytes that came.

    """

    def __init__(  # noqa: PLR0913 -- all different, all needed
        self,
        *,
        source: Source,
        files: tuple[RemoteFile, ...],
        partial: Path,
        settings: ArtifactSettings,
        slots: asyncio.Semaphore,
        clock: Clock,
        rng: Random,
        got: Callable[[int], None],
    ) -> None:
        self._source = source
        self._files = files
        self._folder = partial / "files"
        self._journal = Journal(partial / "parts")
        self._settings = settings
        self._slots = slots
        self._clock = clock
        self._rng = rng
        self._got = got

    def prepare(self) -> int:
        """Make the files at their full length; return the bytes that are there from before."""
        done = self._journal.read()
        for file in self._files:
            path = self._folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as opened:
                opened.truncate(file.size_bytes)
        return sum(part.size_bytes for part in done)

    async def run(self) -> tuple[FileDigest, ...]:
        """Get what is missing; return the digests of all files.

        Raises:
            ArtifactError: if a range cannot be had, or a file is not what its keeper says.

        """
        done = await asyncio.to_thread(self._journal.read)
        parts = (
            part
            for part in parts_of(self._files, self._settings.part_bytes)
            if part.size_bytes and part not in done
        )
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._settings.parts):
                    group.create_task(self._work(parts))
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        return await self._digests()

    async def _work(self, parts: Iterator[Part]) -> None:
        for part in parts:
            await self._get(part)
            await asyncio.to_thread(self._note, part)

    async def _get(self, part: Part) -> None:
        """Read one range to its end, over as many connections as it takes."""
        file, at, in_vain = self._files[part.file], part.start, 0
        while at < part.stop:
            began = at
            try:
                async with self._slots:
                    async for piece in self._pieces(file, at, part.stop):
                        await asyncio.to_thread(self._write, part.file, at, piece)
                        at += len(piece)
                        self._got(len(piece))
                if at < part.stop:
                    raise ArtifactError(f"{file.path}: ended at byte {at}", retry_safe=True)
            except ArtifactError as error:
                if not error.retry_safe:
                    raise
                in_vain = 1 if at > began and file.ranged else in_vain + 1
                if in_vain >= self._settings.tries:
                    raise
                _log.debug("range_broken", file=file.path, at=at, why=error.message)
                if not file.ranged:
                    self._got(part.start - at)
                    at = part.start
                await self._clock.sleep(self._wait_s(in_vain))

    async def _pieces(self, file: RemoteFile, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield what the source brings, in larger pieces; all of it, also when it breaks off."""
        gathered, left, broken = bytearray(), stop - start, None
        try:
            async for chunk in self._source.read(file, start, stop):
                left -= len(chunk)
                if left < 0:
                    raise ArtifactError(f"{file.path}: more came than the {stop} bytes listed")
                gathered += chunk
                if len(gathered) >= WRITE_BYTES:
                    yield bytes(gathered)
                    gathered.clear()
        except ArtifactError as error:
            broken = error
        if gathered:
            yield bytes(gathered)
        if broken is not None:
            raise broken

    def _write(self, index: int, at: int, piece: bytes) -> None:
        with (self._folder / self._files[index].path).open("r+b", buffering=0) as opened:
            while piece:
                wrote = os.pwrite(opened.fileno(), piece, at)
                piece, at = piece[wrote:], at + wrote

    def _note(self, part: Part) -> None:
        """Note a part that is safely on disk: after a power cut nothing else would tell."""
        with (self._folder / self._files[part.file].path).open("rb") as opened:
            os.fdatasync(opened.fileno())
        self._journal.add(part)

    def _wait_s(self, in_vain: int) -> float:
        settings = self._settings
        most_s = min(settings.retry_most_s, settings.retry_first_s * 2 ** (in_vain - 1))
        return self._rng.uniform(most_s / 2, most_s)

    async def _digests(self) -> tuple[FileDigest, ...]:
        at_once = asyncio.Semaphore(HASHES_AT_ONCE)

        async def one(file: RemoteFile) -> FileDigest:
            async with at_once:
                found = await asyncio.to_thread(_hash_and_sync, self._folder / file.path)
            if file.sha256 not in (None, found):
                raise ArtifactError(f"{file.path}: expected SHA-256 {file.sha256}, found {found}")
            return FileDigest(file.path, file.size_bytes, found)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(file)) for file in self._files]
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        return tuple(task.result() for task in tasks)


def _hash_and_sync(path: Path) -> str:
    total = sha256()
    with path.open("rb") as opened:
        while block := opened.read(WRITE_BYTES):
            total.update(block)
        os.fsync(opened.fileno())
    return total.hexdigest()


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one error of several that ended a download: ours where there is one."""
    ours = failed.subgroup(HeadraceError)
    group = failed if ours is None else ours
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
