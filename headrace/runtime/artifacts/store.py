"""Fetches artifacts into the node's cache. Touches the network, the disk and the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Final, TypeVar

import aiohttp
from typing_extensions import override

from headrace.core.clock import Clock
from headrace.core.errors import ArtifactError
from headrace.runtime.adapters import Artifacts, Held
from headrace.runtime.artifacts.allowed import Uri, check_allowed, parse_uri
from headrace.runtime.artifacts.cache import Lease, NodeCache, Record
from headrace.runtime.artifacts.config import ArtifactSettings
from headrace.runtime.artifacts.digest import check_digest, folder_digest
from headrace.runtime.artifacts.download import Download, plan_of
from headrace.runtime.artifacts.locks import FileLock
from headrace.runtime.artifacts.source import (
    RemoteFile,
    Source,
    can_change_unseen,
    checked,
    listing_key,
)
from headrace.runtime.artifacts.sources.local import LocalSource
from headrace.runtime.artifacts.sources.objects import ObjectSource
from headrace.runtime.artifacts.sources.web import WebSource
from headrace.service.log import get_logger
from headrace.service.telemetry import Telemetry

_log = get_logger("artifacts")

T = TypeVar("T")

LOCK_FIRST_S: Final = 0.02
LOCK_MOST_S: Final = 0.5
"""Between two attempts at a lock that another process holds."""

ROUNDS: Final = 2
"""Downloads from the beginning, before a source that keeps changing, or a wrong checksum, is
believed: the first may have gone on with what a crash left behind."""


@dataclass(slots=True)
class Fetch:
    """A fetch that is going on; ``total_bytes`` is None until the source has been listed."""

    name: str
    source: str
    done_bytes: int = 0
    total_bytes: int | None = None


class _StartAgain(Exception):
    """What was downloaded is not what was asked for; ``why`` in words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class ArtifactStore(Artifacts):
    """The cache of a node, and how this process fills it.

    Args:
        settings: Where things may come from, and every bound.
        session: For web servers.
        clock: For waiting.
        rng: For spreading retries.
        telemetry: Metrics of ``RUNTIME_METRICS``, or None.
        progress: Called whenever bytes of a fetch have come.

    """

    def __init__(
        self,
        settings: ArtifactSettings,
        session: aiohttp.ClientSession,
        clock: Clock,
        rng: Random,
        telemetry: Telemetry | None = None,
        progress: Callable[[Fetch], None] | None = None,
    ) -> None:
        self._settings = settings
        self._session = session
        self._clock = clock
        self._rng = rng
        self._telemetry = telemetry
        self._progress = progress
        self._allow = tuple(parse_uri(prefix, prefix=True) for prefix in settings.allow)
        self._slots = asyncio.Semaphore(settings.parts)
        self._cache = NodeCache(settings.cache_dir, settings.cache_bytes, settings.keep_s)
        self._fetches: list[Fetch] = []
        self._opened = False

    def fetches(self) -> tuple[Fetch, ...]:
        """Return the fetches that are going on."""
        return tuple(self._fetches)

    async def used_bytes(self) -> int:
        """Return the size of the cache; 0 where there is none."""
        return await _whole(self._cache.used_bytes) if self._opened else 0

    @override
    def find(self, path: str) -> Held | None:
        return self._cache.at(Path(path))

    @override
    async def fetch(self, name: str, source: str, digest: str | None) -> Lease:
        uri = parse_uri(source)
        check_allowed(uri, self._allow)
        if digest is not None:
            check_digest(digest)
        if not self._opened:
            await _whole(self._cache.open)
            self._opened = True
        fetch = Fetch(name, uri.shown)
        self._fetches.append(fetch)
        result = "failed"
        try:
            async with asyncio.timeout(self._settings.limit_s):
                lease = await self._fetch(fetch, uri, digest)
            result = "cached" if fetch.total_bytes is None else "fetched"
            return lease
        except TimeoutError:
            limit_s = self._settings.limit_s
            raise ArtifactError(f"{uri.shown}: not within {limit_s} s", retry_safe=True) from None
        except OSError as error:
            raise ArtifactError(f"{self._settings.cache_dir}: {error}", retry_safe=True) from None
        finally:
            self._fetches.remove(fetch)
            self._count(fetch, uri, result)

    async def _fetch(self, fetch: Fetch, uri: Uri, digest: str | None) -> Lease:
        there = None if digest is None else await self._find(fetch.name, digest)
        if there is not None:
            return there
        source = self._source(uri)
        key = sha256(f"{fetch.name}\0{digest or uri}".encode()).hexdigest()[:32]
        lock: FileLock = await self._patient(partial(self._cache.lock, key))
        try:
            why = ""
            for _ in range(ROUNDS):
                try:
                    return await self._fetch_locked(fetch, uri, source, key, digest)
                except _StartAgain as again:
                    why = again.why
                    _log.warning("fetch_starts_again", source=fetch.source, why=why)
                    await _whole(partial(self._cache.discard_partial, key))
            raise ArtifactError(f"{fetch.source}: {why}")
        finally:
            lock.delete()
            lock.release()

    async def _fetch_locked(
        self, fetch: Fetch, uri: Uri, source: Source, key: str, digest: str | None
    ) -> Lease:
        """Return what another process has fetched meanwhile, or fetch it."""
        there = None if digest is None else await self._find(fetch.name, digest)
        if there is not None:
            return there
        files = await self._listed(source, fetch)
        origin = f"{uri.shown}#{listing_key(files)}"
        if digest is None and not can_change_unseen(files):
            there = await _whole(partial(self._cache.from_origin, fetch.name, origin))
            if there is not None:
                return there
        found = await self._download(fetch, uri, source, key, files)
        if digest is None and listing_key(await self._listed(source, fetch)) != listing_key(files):
            raise _StartAgain("it was changed while it was fetched")
        if digest is not None and found != digest:
            raise _StartAgain(f"expected digest {digest}, found {found}")
        total_bytes = sum(file.size_bytes for file in files)
        record = Record(fetch.name, found, total_bytes, uri.shown, origin)
        return await self._patient(partial(self._cache.publish, key, record))

    async def _download(
        self, fetch: Fetch, uri: Uri, source: Source, key: str, files: tuple[RemoteFile, ...]
    ) -> str:
        total_bytes = sum(file.size_bytes for file in files)
        plan = plan_of(uri.shown, files, self._settings.part_bytes)
        reserve = partial(self._cache.reserve, key, total_bytes, plan)
        folder: Path = await self._patient(reserve)
        download = Download(
            source=source,
            files=files,
            partial=folder,
            settings=self._settings,
            slots=self._slots,
            clock=self._clock,
            rng=self._rng,
            got=partial(self._came, fetch, uri.scheme),
        )
        fetch.total_bytes = total_bytes
        fetch.done_bytes = await _whole(download.prepare)
        return folder_digest(await download.run())

    async def _listed(self, source: Source, fetch: Fetch) -> tuple[RemoteFile, ...]:
        """List the source, as often as a range is tried."""
        settings = self._settings
        for attempt in range(settings.tries):
            try:
                return checked(await source.files(), fetch.source, settings.files)
            except ArtifactError as error:
                if not error.retry_safe or attempt + 1 == settings.tries:
                    raise
                wait_s = min(settings.retry_most_s, settings.retry_first_s * 2**attempt)
                await self._clock.sleep(self._rng.uniform(wait_s / 2, wait_s))
        raise AssertionError("tries is at least 1")

    async def _find(self, name: str, digest: str) -> Lease | None:
        return await _whole(partial(self._cache.find, name, digest))

    async def _patient(self, attempt: Callable[[], T | None]) -> T:
        """Repeat what another process keeps us from; the whole fetch has a limit."""
        wait_s = LOCK_FIRST_S
        while (got := await _whole(attempt)) is None:
            await self._clock.sleep(wait_s)
            wait_s = min(LOCK_MOST_S, 1.5 * wait_s)
        return got

    def _source(self, uri: Uri) -> Source:
        settings = self._settings
        if uri.scheme == "file":
            return LocalSource(uri, self._allow, settings.files)
        if uri.scheme in ("http", "https"):
            return WebSource(uri, self._session, self._allow, settings.idle_s, settings.files)
        return ObjectSource(uri, settings)

    def _came(self, fetch: Fetch, scheme: str, count: int) -> None:
        fetch.done_bytes += count
        if self._telemetry is not None:
            self._telemetry.counter("headrace_artifact_bytes_total").labels(scheme).inc(
                max(0, count)
            )
            ratio = fetch.done_bytes / fetch.total_bytes if fetch.total_bytes else 1.0
            self._telemetry.gauge("headrace_artifact_progress_ratio").labels(fetch.name).set(ratio)
        if self._progress is not None:
            self._progress(fetch)

    def _count(self, fetch: Fetch, uri: Uri, result: str) -> None:
        _log.info("fetch_" + result, name=fetch.name, source=fetch.source, bytes=fetch.done_bytes)
        if self._telemetry is not None:
            fetches = self._telemetry.counter("headrace_artifact_fetches_total")
            fetches.labels(uri.scheme, result).inc()
            self._telemetry.gauge("headrace_artifact_progress_ratio").forget(fetch.name)


async def _whole(work: Callable[[], T]) -> T:
    """Do something on disk in a thread, and all of it: who is cancelled waits for its end.

    Otherwise a lock could be released while the work that it protects goes on.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
