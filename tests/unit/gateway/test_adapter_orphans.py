"""Adapters that nobody knows any more: which of them go, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.adapter_hosts import AdapterCalls, AdapterHosts
from gateway.adapter_orphans import ORPHAN_S, Orphans
from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import EndpointView, Health, ModelFiles
from headrace.core.errors import EngineUnreachable
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.adapter_source import AdapterSource
from headrace.runtime.adapters import LoadedAdapter
from router.adapters import AdapterBook
from tests.support.routing import A, B, M, view

X, STATIC = ModelName("x"), ModelName("static")
NONE: frozenset[tuple[EndpointId, ModelName]] = frozenset()


class Source(AdapterSource):
    tells_all = True

    def specs(self) -> list[AdapterSpec]:
        return []

    async def changed(self) -> None:
        raise AssertionError("nobody waits here")


class Sidecar(AdapterCalls):
    """Has loaded X itself, and its engine something else from its start."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_away = False
        self.source: Source | None = None

    async def loaded(self) -> tuple[LoadedAdapter, ...]:
        self.asked += 1
        if self.source is not None:
            self.source.tells_all = False
        if self.is_away:
            raise EngineUnreachable("away")
        return (LoadedAdapter(STATIC, "/static"), LoadedAdapter(X, "/cache/x", ours=True))

    async def load(self, spec: AdapterSpec) -> LoadedAdapter:
        raise AssertionError("nothing is loaded here")

    async def unload(self, name: ModelName) -> bool:
        raise AssertionError("that is for who asked")


class Hosts(AdapterHosts):
    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar

    def of(self, view: EndpointView) -> Sidecar:
        return self.sidecar

    async def keep(self, known: frozenset[EndpointId]) -> None: ...

    async def close(self) -> None: ...


class Clock:
    at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    async def sleep(self, delay_s: float) -> None:
        raise AssertionError("nothing here sleeps")


class Setting:
    def __init__(self) -> None:
        self.book, self.source, self.sidecar = AdapterBook(), Source(), Sidecar()
        self.clock = Clock()
        self.orphans = Orphans(self.book, self.source, Hosts(self.sidecar), self.clock)
        self.views = [lists(A, X, STATIC)]
        self.book.set_endpoints(self.views, 0.0)

    async def find(self, after_s: float = 0.0, ours: object = NONE) -> list[ModelName]:
        self.clock.at_s += after_s
        assert isinstance(ours, frozenset)
        return [name for _, name in await self.orphans.find(self.views, ours)]


def lists(endpoint: EndpointId, *names: ModelName) -> EndpointView:
    files = (None, *(ModelFiles(f"/cache/{name}", M) for name in names))
    return replace(view(endpoint, M, *names), files=files, runtime_url="http://sidecar")


async def test_what_a_sidecar_loaded_goes_once_nobody_has_known_it_for_a_while() -> None:
    s = Setting()
    assert await s.find() == []
    assert await s.find(ORPHAN_S - 1.0) == []
    assert s.sidecar.asked == 0
    assert await s.find(1.0) == [X]


async def test_what_an_engine_was_started_with_stays_and_is_asked_about_once() -> None:
    s = Setting()
    await s.find()
    assert await s.find(ORPHAN_S) == [X]
    s.views = [lists(A, STATIC)]
    assert await s.find(1.0) == await s.find(ORPHAN_S) == []
    assert s.sidecar.asked == 1


async def test_what_is_known_in_use_or_loaded_by_this_gateway_is_no_orphan() -> None:
    for touch in ("known", "used", "ours"):
        s = Setting()
        await s.find()
        if touch == "known":
            s.book.set_specs([AdapterSpec(X, M, "file:///x")])
        if touch == "used":
            s.book.dispatched(A, X, 0.0)
        ours = frozenset({(A, X)}) if touch == "ours" else NONE
        assert await s.find(ORPHAN_S, ours) == [], touch


async def test_nothing_goes_while_the_list_may_lack_something() -> None:
    s = Setting()
    await s.find()
    s.source.tells_all = False
    assert await s.find(ORPHAN_S) == []
    s.source.tells_all = True
    assert await s.find() == [], "the time begins anew"
    s.sidecar.source = s.source
    assert await s.find(ORPHAN_S) == [], "the list went stale while the sidecar answered"


@pytest.mark.parametrize("change", [{"health": Health.DOWN}, {"runtime_url": None}])
async def test_who_cannot_tell_is_not_asked(change: dict[str, object]) -> None:
    s = Setting()
    s.views = [replace(s.views[0], **change)]  # type: ignore[arg-type]
    await s.find()
    assert await s.find(ORPHAN_S) == []
    assert s.sidecar.asked == 0


async def test_a_sidecar_that_is_away_is_asked_again_and_others_are_not_kept() -> None:
    s = Setting()
    s.views = [lists(A, X), lists(B, X)]
    await s.find()
    s.sidecar.is_away = True
    assert await s.find(ORPHAN_S) == []
    s.sidecar.is_away = False
    assert await s.find(1.0) == [X, X]
