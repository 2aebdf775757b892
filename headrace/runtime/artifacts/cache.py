"""The node's cache of artifacts: a folder that several processes and pods share. Blocks on disk.

    NAME/DIGEST/            the files of one version; never changed once they are there
    NAME/DIGEST.json        what they are; a folder without it is not complete
    .leases/NAME@DIGEST     held shared by whoever uses the folder; its time is that of the last use
    .locks/KEY              held by whoever fetches the artifact of that key
    .partial/KEY/           what it has fetched so far; goes on after a crash
    .trash/                 what is being deleted

A version is under a path of its own, so whoever keeps something by path (an engine the KV of an
adapter's prompts) does not take one for the other. Every lock is released when its holder dies.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from headrace.core.errors import ArtifactError
from headrace.runtime.artifacts.digest import folder_name
from headrace.runtime.artifacts.locks import FileLock, try_lock

T = TypeVar("T", bound=msgspec.Struct)

PLAN: Final = "plan.json"
ROOM_LOCK: Final = "room"
FILES: Final = "files"
MOST_FOLDER_CHARS: Final = 180
"""Of a name as a folder: file systems take 255, of which a lease adds 33."""


class Record(msgspec.Struct, frozen=True):
    """What is known of a complete artifact.

    ``origin`` tells the source and the listing that it was fetched from.
    """

    name: str
    digest: str
    size_bytes: int
    source: str
    origin: str


class _Reserved(msgspec.Struct, frozen=True):
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """A complete artifact that is not evicted until it is released."""

    path: Path
    record: Record
    lock: FileLock

    @property
    def digest(self) -> str:
        """Of all its files."""
        return self.record.digest

    def release(self) -> None:
        """Let it be evicted when room is needed; doing so twice changes nothing."""
        self.lock.release()


class NodeCache:
    """One cache folder.

    Args:
        root: The folder; made if need be.
        limit_bytes: What is kept.
        keep_s: How recently used is too recent to be evicted.

    """

    def __init__(self, root: Path, limit_bytes: int, keep_s: float) -> None:
        self._root = root.resolve()
        self._limit_bytes = limit_bytes
        self._keep_s = keep_s

    def open(self) -> None:
        """Make the folders, and delete what a crash left to be; ArtifactError if that fails."""
        try:
            for name in (".leases", ".locks", ".partial", ".trash"):
                (self._root / name).mkdir(parents=True, exist_ok=True)
            for left in (self._root / ".trash").iterdir():
                shutil.rmtree(left, ignore_errors=True)
        except OSError as error:
            raise ArtifactError(f"artifacts.cache_dir: {error}") from None

    def find(self, name: str, digest: str) -> Lease | None:
        """Return a version, held; None if it is not there."""
        return self._lease(_folder(name), folder_name(digest), digest)

    def at(self, path: Path) -> Lease | None:
        """Return what lies at a path of this cache, held; links are followed."""
        try:
            parts = path.resolve().relative_to(self._root).parts
        except (ValueError, OSError):
            return None
        return self._lease(*parts, None) if len(parts) == 2 else None

    def from_origin(self, name: str, origin: str) -> Lease | None:
        """Return the version that was fetched from this very listing, held; None if none was."""
        for file in (self._root / _folder(name)).glob("*.json"):
            record = _read(file, Record)
            if record is not None and record.origin == origin:
                return self._lease(_folder(name), file.stem, record.digest)
        return None

    def lock(self, key: str) -> FileLock | None:
        """Return the right to fetch the artifact of a key; None while another process has it."""
        return try_lock(self._root / ".locks" / key)

    def reserve(self, key: str, total_bytes: int, plan: bytes) -> Path | None:
        """Return the folder to fetch into, with room for it made; None while others make room.

        Call it with the lock of ``key`` held. What was fetched of the same plan before is kept.

        Raises:
            ArtifactError: if there is no room.

        """
        room = try_lock(self._root / ".locks" / ROOM_LOCK)
        if room is None:
            return None
        try:
            partial = self._root / ".partial" / key
            if not _same(partial / PLAN, plan):
                self._discard(partial)
            self._make_room(key, total_bytes, room.touch())
            (partial / FILES).mkdir(parents=True, exist_ok=True)
            _write(partial / "reserved.json", msgspec.json.encode(_Reserved(total_bytes)))
            _write(partial / PLAN, plan)
            return partial
        finally:
            room.release()

    def publish(self, key: str, record: Record) -> Lease | None:
        """Move what was fetched to its place and return it, held.

        The lock of ``key`` must be held. None while another process puts the same files there,
        fetched under another key.
        """
        folder, version = _folder(record.name), folder_name(record.digest)
        alone = try_lock(self._root / ".locks" / f"{folder}@{version}")
        if alone is None:
            return None
        try:
            lease = self._lease(folder, version, record.digest)
            if lease is None:
                lease = self._move(self._root / ".partial" / key / FILES, record)
            self._discard(self._root / ".partial" / key)
            return lease
        finally:
            alone.delete()
            alone.release()

    def _move(self, files: Path, record: Record) -> Lease:
        folder, version = _folder(record.name), folder_name(record.digest)
        place = self._root / folder / version
        lock = self._lock_lease(folder, version)
        try:
            self._discard(place)  # of a process that died before it wrote the record
            _move_into(files, place)
            _write(place.with_suffix(".json"), msgspec.json.encode(record))
        except BaseException:
            lock.release()
            raise
        return Lease(place, record, lock)

    def discard_partial(self, key: str) -> None:
        """Forget what was fetched for a key, whose lock must be held."""
        self._discard(self._root / ".partial" / key)

    def used_bytes(self) -> int:
        """Return the size of all artifacts, those on their way counted whole."""
        return sum(record.size_bytes for _, record in self._records()) + self._reserved("")

    def _lease(self, folder: str, version: str, digest: str | None) -> Lease | None:
        place = self._root / folder / version
        record_file = place.with_suffix(".json")
        if not record_file.is_file():
            return None
        lock = try_lock(self._lease_file(folder, version), shared=True)
        if lock is None:
            return None  # it is being evicted
        record = _read(record_file, Record)
        if record is None or not place.is_dir() or digest not in (None, record.digest):
            lock.release()
            return None
        lock.touch()
        return Lease(place, record, lock)

    def _lock_lease(self, folder: str, version: str) -> FileLock:
        lock = try_lock(self._lease_file(folder, version), shared=True)
        if lock is None:
            raise ArtifactError(f"{folder}/{version} is being evicted", retry_safe=True)
        lock.touch()
        return lock

    def _lease_file(self, folder: str, version: str) -> Path:
        return self._root / ".leases" / f"{folder}@{version}"

    def _make_room(self, key: str, total_bytes: int, now_s: float) -> None:
        """Evict until ``total_bytes`` more fit; the lock of the room is held."""
        records = self._records()
        used = sum(record.size_bytes for _, record in records) + self._reserved(key)
        excess = used + total_bytes - self._limit_bytes
        if excess > 0:
            excess -= self._drop_abandoned(key, now_s)
        ages = sorted((self._last_used(place), place, record) for place, record in records)
        for used_s, place, record in ages:
            if excess <= 0 or now_s - used_s < self._keep_s:
                break
            if self._evict(place):
                excess -= record.size_bytes
        if excess > 0:
            raise ArtifactError(
                f"{total_bytes} bytes do not fit into artifacts.cache_bytes ({self._limit_bytes}) "
                f"beside what is in use: {excess} are missing",
                retry_safe=total_bytes <= self._limit_bytes,
            )
        free = shutil.disk_usage(self._root).free
        if total_bytes > free + _size(self._root / ".partial" / key):
            raise ArtifactError(
                f"{total_bytes} bytes do not fit onto the disk: {free} are free", retry_safe=True
            )

    def _evict(self, place: Path) -> bool:
        """Remove one version unless somebody uses it."""
        lock = try_lock(self._lease_file(place.parent.name, place.name))
        if lock is None:
            return False
        try:
            place.with_suffix(".json").unlink(missing_ok=True)  # from here on nobody finds it
            self._discard(place)
            lock.delete()
            with suppress(OSError):  # another version is there
                place.parent.rmdir()
        finally:
            lock.release()
        return True

    def _drop_abandoned(self, key: str, now_s: float) -> int:
        """Remove what processes that are gone were fetching; return the bytes it had reserved."""
        dropped = 0
        for partial in (self._root / ".partial").iterdir():
            reserved = partial / "reserved.json"
            if partial.name == key or now_s - _mtime_s(reserved) < self._keep_s:
                continue
            lock = try_lock(self._root / ".locks" / partial.name)
            if lock is not None:
                told = _read(reserved, _Reserved)
                dropped += 0 if told is None else told.total_bytes
                self._discard(partial)
                lock.delete()
                lock.release()
        return dropped

    def _discard(self, folder: Path) -> None:
        """Delete a folder; it is gone from its place at once."""
        trash = self._root / ".trash" / uuid.uuid4().hex
        try:
            folder.rename(trash)
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)

    def _records(self) -> list[tuple[Path, Record]]:
        found = []
        for file in self._root.glob("*/*.json"):
            record = None if file.parent.name.startswith(".") else _read(file, Record)
            if record is not None:
                found.append((file.with_suffix(""), record))
        return found

    def _reserved(self, but: str) -> int:
        told = [
            _read(partial / "reserved.json", _Reserved)
            for partial in (self._root / ".partial").iterdir()
            if partial.name != but
        ]
        return sum(one.total_bytes for one in told if one is not None)

    def _last_used(self, place: Path) -> float:
        return _mtime_s(self._lease_file(place.parent.name, place.name))


def _move_into(files: Path, place: Path) -> None:
    """Move a folder to its place, also if the folder around that is being tidied away."""
    with suppress(FileNotFoundError):
        place.parent.mkdir(exist_ok=True)
        files.rename(place)
        return
    place.parent.mkdir(exist_ok=True)
    files.rename(place)


def _folder(name: str) -> str:
    """Return a name as one segment of a path, none of ours and none twice."""
    quoted = quote(name, safe="")
    if len(quoted) > MOST_FOLDER_CHARS:
        quoted = f"{quoted[:100]}~{sha256(name.encode()).hexdigest()[:32]}"
    return quoted.replace(".", "%2E", 1) if quoted.startswith(".") else quoted


def _read(file: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None


def _write(file: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    with temporary.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    temporary.replace(file)


def _same(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False


def _mtime_s(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    """Return the disk space that a folder takes: files made long in advance hold little."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
