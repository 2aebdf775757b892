"""Has endpoints load the adapters that requests ask for, and unload those that nobody does.

Uses asyncio. What is where is in the router's ``AdapterBook``; what this adds is which version an
endpoint has, as we had it loaded: only that is served from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Final

from gateway.adapter_hosts import AdapterHosts
from gateway.adapter_orphans import Orphans
from gateway.adapters_config import AdapterSettings
from gateway.forward import ClientGone, Sink
from headrace.core.adapter import AdapterSpec
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView, Health, ModelFiles
from headrace.core.errors import (
    ArtifactError,
    EngineError,
    EngineRefused,
    EngineTimeout,
    HeadraceError,
    Overloaded,
)
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.adapter_source import AdapterSource
from headrace.service.log import get_logger
from headrace.service.telemetry import Telemetry
from router.adapters import GRACE_S
from router.adapters_plan import AdapterLimits, plan, victim
from router.router import Router

_log = get_logger("adapters")

_Key = tuple[EndpointId, ModelName]

UNLOAD_TRIES: Final = 3
"""Adapters unloaded at most to make room for one: requests may come for each meanwhile."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A version that an endpoint has: we had it loaded, or found it there, at ``at_s``."""

    spec: AdapterSpec
    path: str
    at_s: float


class Adapters:
    """The adapters of a gateway's endpoints. One owner.

    Args:
        settings: Every bound.
        router: Knows which endpoints there are and keeps the book.
        source: Which adapters there are.
        hosts: How endpoints are told.
        clock: Tells the time.
        telemetry: Where to count.

    """

    def __init__(
        self,
        settings: AdapterSettings,
        router: Router,
        source: AdapterSource,
        *,
        hosts: AdapterHosts,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._router = router
        self._book = router.adapters
        self._source = source
        self._hosts = hosts
        self._clock = clock
        self._loaded: dict[_Key, _Loaded] = {}
        self._resting: dict[_Key, tuple[float, str]] = {}
        self._loading: dict[_Key, tuple[AdapterSpec, asyncio.Task[None]]] = {}
        self._locks: dict[EndpointId, asyncio.Lock] = {}
        self._at_once = asyncio.Semaphore(settings.loads_at_once)
        self._orphans = Orphans(self._book, source, hosts, clock)
        self._limits = AdapterLimits(settings.per_endpoint, settings.park_after_s)
        self._loads = telemetry.counter("headrace_adapter_loads_total")
        self._unloads = telemetry.counter("headrace_adapter_unloads_total")
        self._seconds = telemetry.histogram("headrace_adapter_load_seconds").labels()
        self._gauge = telemetry.gauge("headrace_endpoint_adapters")
        self.changed: Callable[[], None] = lambda: None
        """Called when what an endpoint serves has changed; set by who watches endpoints."""

    # What requests need.

    def ready(self, view: EndpointView, name: ModelName) -> bool:
        """Return whether an endpoint has the version of an adapter that there now is.

        True for every other model. One without a digest is looked at again from time to time.
        """
        spec = self._book.spec(name)
        if spec is None:
            return True
        found = self._loaded.get((view.endpoint_id, name))
        if found is None or not _same(found.spec, spec):
            return False
        age_s = self._clock.now_s() - found.at_s
        if spec.digest is None and age_s > self._settings.recheck_s:
            return False
        return age_s <= GRACE_S or _root(view, name) == found.path

    async def ensure(self, view: EndpointView, name: ModelName, sink: Sink) -> None:
        """Return when the endpoint has the adapter's version that there now is.

        Raises:
            EngineError, Overloaded: if it cannot be loaded there.
            ClientGone: if the client left meanwhile; the load goes on.

        """
        spec = self._book.spec(name)
        if spec is None or self.ready(view, name):
            return
        task, limit_s = self._start(view, spec), self._settings.load_s
        await _either(task, sink, limit_s)
        if sink.gone:
            raise ClientGone
        if not task.done():
            raise EngineTimeout(f"{name!r} was not loaded within {limit_s:g} s")
        if task.cancelled():
            raise EngineRefused(f"{name!r}: its endpoint is gone")
        task.result()

    def resting(self, name: ModelName) -> frozenset[EndpointId]:
        """Return the endpoints that lately failed to load an adapter."""
        if not self._resting:
            return frozenset()
        now_s = self._clock.now_s()
        for key in [key for key, (until_s, _) in self._resting.items() if until_s <= now_s]:
            del self._resting[key]
        return frozenset(endpoint for endpoint, one in self._resting if one == name)

    def why(self, name: ModelName) -> str | None:
        """Return why some endpoint lately failed to load an adapter; None if none did."""
        return next((why for (_, one), (_, why) in self._resting.items() if one == name), None)

    def lost(self, view: EndpointView, name: ModelName) -> bool:
        """Take note that an endpoint did not know a name; return whether we had it loaded."""
        self._book.unloaded(view.endpoint_id, name)
        return self._loaded.pop((view.endpoint_id, name), None) is not None

    # What there is.

    def seen(self, views: Iterable[EndpointView]) -> list[EndpointView]:
        """Return the endpoints with what was loaded since they were last looked at.

        What was loaded into an engine that is down or gone is forgotten.
        """
        found = list(views)
        alive = {view.endpoint_id for view in found if view.health is not Health.DOWN}
        for key in [key for key in self._loaded if key[0] not in alive]:
            del self._loaded[key]
        known = {view.endpoint_id for view in found}
        for key, (_, task) in list(self._loading.items()):
            if key[0] not in known:
                task.cancel()
        self._locks = {
            endpoint: lock for endpoint, lock in self._locks.items() if endpoint in known
        }
        return [self._with_loaded(view) for view in found]

    def tasks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return what must run in the background for all this, and its names."""
        return [("adapters", self.follow), ("adapter-plan", self.keep_plan)]

    async def follow(self) -> None:
        """Take every change of the list of adapters, for ever."""
        while True:
            self.apply()
            await self._source.changed()

    def apply(self) -> None:
        """Take the list of adapters as it is now."""
        self._router.set_adapters(self._source.specs())
        self.changed()

    async def keep_plan(self) -> None:
        """Load what is to be loaded always and unload what is cold, for ever."""
        while True:
            await self.plan_once()
            await self._clock.sleep(self._settings.plan_s)

    async def plan_once(self) -> None:
        """Do what should be done now."""
        views = self._router.endpoints()
        await self._hosts.keep(frozenset(view.endpoint_id for view in views))
        steps = plan(self._book, views, frozenset(self._loaded), self._engine_s(), self._limits)
        for step in steps:
            view = self._router.endpoint(step.endpoint_id)
            spec = self._book.spec(step.name)
            if not step.load:
                await self._unload(view, step.name, "cold" if spec else "removed")
            elif spec is not None and step.endpoint_id not in self.resting(step.name):
                self._start(view, spec)
        known = {view.endpoint_id: view for view in views}
        for endpoint_id, name in await self._orphans.find(views, frozenset(self._loaded)):
            if self._book.spec(name) is None:  # still, after the ones before it
                await self._unload(known[endpoint_id], name, "orphaned")
        for view in views:
            count = sum(endpoint_id == view.endpoint_id for endpoint_id, _ in self._loaded)
            self._gauge.labels(view.endpoint_id).set(count)

    async def close(self) -> None:
        """Stop loading; engines keep what they have."""
        tasks = [task for _, task in self._loading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hosts.close()

    # Loading.

    def _start(self, view: EndpointView, spec: AdapterSpec) -> asyncio.Task[None]:
        """Have one version loaded once, however many wait for it."""
        key = (view.endpoint_id, spec.name)
        there = self._loading.get(key)
        if there is not None and there[0] == spec:
            return there[1]
        task = asyncio.create_task(self._load(view, spec), name=f"adapter {spec.name}")
        self._loading[key] = (spec, task)
        task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _landed(self, key: _Key, task: asyncio.Task[None]) -> None:
        there = self._loading.get(key)
        if there is not None and there[1] is task:
            del self._loading[key]
        error = None if task.cancelled() else task.exception()
        if (task.cancelled() or error is not None) and key not in self._loaded:
            self._book.unloaded(*key)
        if error is not None:
            until_s = self._clock.now_s() + self._settings.rest_s
            self._resting[key] = (until_s, str(error))
            self._loads.labels(key[1], "failed").inc()
            _log.warning("adapter_failed", endpoint=key[0], adapter=key[1], why=str(error))

    async def _load(self, view: EndpointView, spec: AdapterSpec) -> None:
        endpoint_id = view.endpoint_id
        lock = self._locks.setdefault(endpoint_id, asyncio.Lock())
        async with self._at_once:
            started_s = self._clock.now_s()
            calls = self._hosts.of(view)
            try:
                async with lock:  # so that two do not make room for each other
                    await self._make_room(view, spec.name)
                try:
                    loaded = await calls.load(spec)
                except Overloaded:  # others than we have loaded there, too
                    async with lock:
                        await self._make_way(view, spec.name)
                    loaded = await calls.load(spec)
            except (EngineError, Overloaded):
                raise
            except ArtifactError as error:
                raise EngineRefused(f"{spec.name!r} cannot be had: {error.message}") from error
            except HeadraceError as error:
                raise EngineRefused(f"{spec.name!r} cannot be loaded: {error}") from error
        now_s = self._clock.now_s()
        key = (endpoint_id, spec.name)
        before = self._loaded.get(key)
        fresh = before is None or before.path != loaded.path
        took_ms = (now_s - started_s) * 1_000.0 * self._router.time_scale
        self._loaded[key] = _Loaded(spec, loaded.path, now_s)
        self._resting.pop(key, None)
        self._book.loaded(endpoint_id, spec.name, self._engine_s(), took_ms if fresh else None)
        if fresh:
            self._loads.labels(spec.name, "loaded").inc()
            self._seconds.observe(now_s - started_s)
            self.changed()

    async def _make_room(self, view: EndpointView, name: ModelName) -> None:
        """Unload what was used least recently, until one more may be known there."""
        endpoint_id = view.endpoint_id
        for _ in range(UNLOAD_TRIES):
            keys = {*self._loaded, *self._loading}
            mine = {one for endpoint, one in keys if endpoint == endpoint_id} - {name}
            if len(mine) < self._limits.room(view):
                return
            ours = frozenset(self._loaded)
            coldest = victim(self._book, endpoint_id, ours, self._engine_s())
            if coldest is None:
                raise Overloaded(f"{len(mine)} adapters on {endpoint_id}, all in use or pinned")
            await self._unload(view, coldest, "room")

    async def _make_way(self, view: EndpointView, name: ModelName) -> None:
        """Unload one adapter that is listed, ours or another gateway's, where the endpoint is full.

        Whoever still wants it loads it anew. Ours go first: what others have running is unknown.
        """
        endpoint_id = view.endpoint_id
        entering = {one for endpoint, one in self._loading if endpoint == endpoint_id}
        theirs = frozenset(
            (endpoint_id, one)
            for one in self._book.registered(endpoint_id) - entering
            if self._book.spec(one) is not None
        )
        for candidates in (frozenset(self._loaded) - {(endpoint_id, name)}, theirs):
            coldest = victim(self._book, endpoint_id, candidates, self._engine_s())
            if coldest is not None:
                await self._unload(view, coldest, "room")
                return

    async def _unload(self, view: EndpointView, name: ModelName, why: str) -> None:
        """Have an endpoint forget an adapter; one that fails to is asked again later."""
        key = (view.endpoint_id, name)
        before = self._loaded.pop(key, None)  # from here on a request for it loads it anew
        try:
            await self._hosts.of(view).unload(name)
        except HeadraceError as error:
            if before is not None and key not in self._loaded:
                self._loaded[key] = before
            _log.warning("adapter_kept", endpoint=key[0], adapter=name, why=str(error))
            return
        self._book.unloaded(*key)
        self._unloads.labels(why).inc()
        _log.info("adapter_unloaded", endpoint=key[0], adapter=name, why=why)
        self.changed()

    def _with_loaded(self, view: EndpointView) -> EndpointView:
        """Correct an endpoint's list where it was read before our last load, and add its slots."""
        if view.adapter_slots is None and self._settings.slots is not None:
            view = replace(view, adapter_slots=self._settings.slots)
        now_s = self._clock.now_s()
        new = {
            name: ModelFiles(found.path, found.spec.base)
            for (endpoint_id, name), found in self._loaded.items()
            if endpoint_id == view.endpoint_id and now_s - found.at_s <= GRACE_S
        }
        if not new:
            return view
        files = {**dict(zip_longest(view.models, view.files)), **new}
        return replace(view, models=tuple(files), files=tuple(files.values()))

    def _engine_s(self) -> float:
        return self._clock.now_s() * self._router.time_scale


async def _either(task: asyncio.Task[None], sink: Sink, limit_s: float) -> None:
    """Wait until a task is done, the client has left, or the time is up."""
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    before = sink.on_gone

    def left() -> None:
        if not gone.done():
            gone.set_result(None)

    sink.on_gone = left
    try:
        if not sink.gone:
            both = {task, gone}
            await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sink.on_gone = before
        gone.cancel()


def _same(one: AdapterSpec, other: AdapterSpec) -> bool:
    """Return whether two are one version."""
    return (one.base, one.source, one.digest) == (other.base, other.source, other.digest)


def _root(view: EndpointView, name: ModelName) -> str | None:
    files = dict(zip(view.models, view.files, strict=False)).get(name)
    return None if files is None else files.root
