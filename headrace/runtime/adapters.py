"""Loads adapters into one engine and unloads them. Touches the engine and the artifacts' cache.

What is loaded is what the engine says, so nothing is believed of an engine that was restarted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakValueDictionary

import msgspec

from headrace.core.adapter import AdapterSpec
from headrace.core.errors import EngineRefused, InvalidRequest, Overloaded
from headrace.core.ids import ModelName
from headrace.runtime.client import EngineClient, ServedModels
from headrace.runtime.engines.dialect import AdapterDialect, Call
from headrace.service.log import get_logger

_log = get_logger("adapters")

MOST_NAME_CHARS: Final = 256
MOST_CONFIG_BYTES: Final = 1 << 20
"""Longest ``adapter_config.json`` read; PEFT's are a few hundred bytes."""


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that an engine has.

    ``digest`` is that of its files where they lie in our cache, else None. ``ours`` are those that
    were loaded through us in this life of ours: the engine may have been started with others.
    """

    name: ModelName
    path: str
    digest: str | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """Bounds of one engine's adapters.

    Attributes:
        adapters: Most loaded at once.
        engine_s: What one call to the engine may take; SGLang's unload waits for requests.

    """

    adapters: int = 64
    engine_s: float = 120.0


class Held(Protocol):
    """An artifact that stays where it is until it is released."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    @property
    def digest(self) -> str:
        """Of all its files: ``sha256:`` and 64 hex digits."""
        ...

    def release(self) -> None:
        """Let it be evicted when room is needed; doing so twice changes nothing."""
        ...


class Artifacts(Protocol):
    """Where adapters' files come from."""

    async def fetch(self, name: str, source: str, digest: str | None) -> Held:
        """Return the files of ``source``, held.

        Raises:
            InvalidRequest: if the source or the digest is malformed, or the source not allowed.
            ArtifactError: if the files cannot be had.

        """
        ...

    def find(self, path: str) -> Held | None:
        """Return the artifact that lies at ``path``, held; None if none of ours does."""
        ...


class AdapterHost:
    """The adapters of one engine.

    Calls for one name are done one after the other, equal ones together. A load goes on when its
    caller leaves. Use ``close`` at the end.
    """

    def __init__(
        self,
        client: EngineClient,
        dialect: AdapterDialect,
        artifacts: Artifacts,
        limits: AdapterLimits | None = None,
    ) -> None:
        self._client = client
        self._dialect = dialect
        self._artifacts = artifacts
        self._limits = limits or AdapterLimits()
        self._loading: dict[AdapterSpec, asyncio.Task[LoadedAdapter]] = {}
        self._entering: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._held: dict[str, Held] = {}
        self._ours: dict[str, str] = {}  # paths by name

    async def loaded(self) -> tuple[LoadedAdapter, ...]:
        """Return the adapters that the engine has, in order of name, and hold just their files.

        Call it when the engine has started: it may know adapters from before we did.

        Raises:
            EngineError: if it does not say.

        """
        adapters = await self._in_engine()
        for adapter in adapters:
            if adapter.name not in self._held and adapter.name not in self._entering:
                self._hold(adapter.name, self._artifacts.find(adapter.path))
        names = {adapter.name for adapter in adapters}
        for gone in self._held.keys() - names - self._entering:  # restarted, or evicted by itself
            self._hold(gone, None)
        for gone in self._ours.keys() - names - self._entering:
            del self._ours[gone]
        return tuple(adapters)

    async def load(self, spec: AdapterSpec) -> LoadedAdapter:
        """Have the engine serve ``spec``; return at once what is loaded already.

        Another version under a loaded name takes its place, from a path of its own.

        Raises:
            InvalidRequest: if a field is wrong, or the engine cannot take such an adapter.
            Overloaded: if as many as allowed are loaded.
            ArtifactError: if the files cannot be had.
            EngineError: if the engine fails.

        """
        _check(spec)
        task = self._loading.get(spec)
        if task is None:
            if len(self._loading) >= self._limits.adapters:
                raise Overloaded(f"{len(self._loading)} adapters are being loaded already")
            task = asyncio.create_task(self._load_alone(spec), name=f"load {spec.name}")
            self._loading[spec] = task
            task.add_done_callback(lambda done: self._landed(spec, done))
        return await asyncio.shield(task)

    async def unload(self, name: ModelName) -> bool:
        """Have the engine forget an adapter; return False if it had none of that name.

        Raises:
            EngineError: if it fails, or does not let go of it.

        """
        async with self._lock(name):
            if all(adapter.name != name for adapter in await self._in_engine()):
                self._forget(name)
                return False
            why = await self._ask(self._dialect.unload(name))
            if why is not None and any(one.name == name for one in await self._in_engine()):
                raise EngineRefused(f"unloading {name}: {why}")
            self._forget(name)
            _log.info("adapter_unloaded", adapter=name)
            return True

    async def close(self) -> None:
        """Stop loading and let go of all files; the engine keeps what it has."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in list(self._held):
            self._hold(name, None)

    def _landed(self, spec: AdapterSpec, task: asyncio.Task[LoadedAdapter]) -> None:
        self._loading.pop(spec, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("adapter_not_loaded", adapter=spec.name, why=str(error))

    async def _load_alone(self, spec: AdapterSpec) -> LoadedAdapter:
        async with self._lock(spec.name):
            served = await self._client.models()
            there = {adapter.name: adapter for adapter in self._adapters(served)}
            self._admit(spec, there, served)
            try:
                return await self._put(spec, there.get(spec.name))
            finally:
                self._entering.discard(spec.name)

    def _admit(
        self, spec: AdapterSpec, there: dict[ModelName, LoadedAdapter], served: ServedModels
    ) -> None:
        if spec.name in served.names and spec.name not in there:
            raise InvalidRequest(
                f"{spec.name!r} is the name of a base model; give the adapter another", field="name"
            )
        if spec.name not in there:
            taken = len(there.keys() | self._entering)
            if taken >= self._limits.adapters:
                raise Overloaded(f"{taken} adapters are loaded, and no more may be; unload one")
        self._entering.add(spec.name)

    async def _put(self, spec: AdapterSpec, before: LoadedAdapter | None) -> LoadedAdapter:
        if before is not None and spec.digest is not None and before.digest == spec.digest:
            if spec.name not in self._held:
                self._hold(spec.name, self._artifacts.find(before.path))
            return before
        files = await self._artifacts.fetch(spec.name, spec.source, spec.digest)
        try:
            if before is None or before.path != str(files.path):
                await _check_rank(spec, files.path)
                await self._tell(spec, files.path, replaced=before is not None)
        except BaseException:
            files.release()
            raise
        self._hold(spec.name, files)
        return self._adapter(spec.name, str(files.path), files.digest)

    async def _tell(self, spec: AdapterSpec, path: Path, *, replaced: bool) -> None:
        for call in self._dialect.load(spec.name, str(path), replaced=replaced):
            why = await self._ask(call)
            if why is not None:
                raise _refused(spec, why)
        if not replaced or spec.name in self._ours:  # what it was started with stays its own
            self._ours[spec.name] = str(path)
        _log.info("adapter_loaded", adapter=spec.name, path=str(path), replaced=replaced)

    async def _ask(self, call: Call) -> str | None:
        status, reply = await self._client.post(call.path, call.body, self._limits.engine_s)
        return self._dialect.refusal(status, reply)

    async def _in_engine(self) -> list[LoadedAdapter]:
        return self._adapters(await self._client.models())

    def _adapters(self, served: ServedModels) -> list[LoadedAdapter]:
        found = []
        for name, files in zip(served.names, served.files, strict=True):
            if files is not None and files.parent is not None:
                found.append(self._adapter(name, files.root, self._digest(name, files.root)))
        return sorted(found, key=lambda adapter: adapter.name)

    def _adapter(self, name: ModelName, path: str, digest: str | None) -> LoadedAdapter:
        return LoadedAdapter(name, path, digest, self._ours.get(name) == path)

    def _digest(self, name: str, path: str) -> str | None:
        """Return the digest of what lies at a path, asking the cache only for what is new to us."""
        held = self._held.get(name)
        if held is not None and str(held.path) == path:
            return held.digest
        found = self._artifacts.find(path)
        if found is None:
            return None
        found.release()
        return found.digest

    def _forget(self, name: str) -> None:
        self._hold(name, None)
        self._ours.pop(name, None)

    def _hold(self, name: str, files: Held | None) -> None:
        before = self._held.pop(name, None)
        if files is not None:
            self._held[name] = files
        if before is not None:
            before.release()

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock


class _PeftConfig(msgspec.Struct, frozen=True):
    r: int | None = None


async def _check_rank(spec: AdapterSpec, path: Path) -> None:
    """Compare the rank that was told with that of the files, where both are known."""
    if spec.rank is None:
        return
    found = await asyncio.to_thread(_rank, path / "adapter_config.json")
    if found is not None and found != spec.rank:
        raise InvalidRequest(
            f"rank: the files of {spec.name!r} are of rank {found}, not {spec.rank}", field="rank"
        )


def _rank(file: Path) -> int | None:
    try:
        with file.open("rb") as opened:
            return msgspec.json.decode(opened.read(MOST_CONFIG_BYTES), type=_PeftConfig).r
    except (OSError, msgspec.DecodeError):
        return None


def _check(spec: AdapterSpec) -> None:
    """Refuse what no engine could take.

    Raises:
        InvalidRequest: names the field and what was expected.

    """
    if not 0 < len(spec.name) <= MOST_NAME_CHARS or not spec.name.isprintable():
        raise InvalidRequest(
            f"name: expected 1 to {MOST_NAME_CHARS} printable characters", field="name"
        )
    if not spec.source:
        raise InvalidRequest("source: expected a URI of the adapter's files", field="source")
    if spec.rank is not None and spec.rank < 1:
        raise InvalidRequest(f"rank: expected at least 1, found {spec.rank}", field="rank")


def _refused(spec: AdapterSpec, why: str) -> InvalidRequest | EngineRefused:
    """Return the error for an engine's refusal: whose fault it is shows in its words only."""
    words = why.lower()
    if "rank" in words and _any_in(words, ("greater", "exceed", "larger", "incompatible")):
        return InvalidRequest(f"rank: the engine cannot load {spec.name!r}: {why}", field="rank")
    if _any_in(words, ("no adapter found", "no such file", "adapter_config")):
        return InvalidRequest(f"source: not an adapter: {why}", field="source")
    return EngineRefused(f"loading {spec.name}: {why}")


def _any_in(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)
