"""What requests get of adapters, over hosts that load when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry

from gateway.adapter_hosts import AdapterCalls, AdapterHosts
from gateway.adapters import Adapters
from gateway.adapters_config import AdapterEntry, AdapterSettings
from gateway.forward import ClientGone
from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import EndpointView, Health, ModelFiles
from headrace.core.errors import (
    ArtifactError,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    HeadraceError,
    InvalidRequest,
    Overloaded,
)
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.adapter_source import ListedAdapters
from headrace.runtime.adapters import LoadedAdapter
from headrace.service.telemetry import Telemetry
from tests.support.routing import A, B, M, router, view

X, Y, Z = ModelName("x"), ModelName("y"), ModelName("z")


def spec(name: ModelName, source: str = "file:///1", **fields: object) -> AdapterSpec:
    return replace(AdapterSpec(name, M, source), **fields)  # type: ignore[arg-type]


class Engine(AdapterCalls):
    """Loads at once, or when ``go`` is set; a version's path is its source's."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.error: HeadraceError | None = None
        self.go: asyncio.Event | None = None
        self.found: tuple[LoadedAdapter, ...] = ()
        self.asked = 0
        self.full = False

    async def load(self, spec: AdapterSpec) -> LoadedAdapter:
        self.loads.append(spec.name)
        if self.go is not None:
            await self.go.wait()
        if self.full:
            raise Overloaded("no more may be loaded")
        if self.error is not None:
            raise self.error
        return LoadedAdapter(spec.name, f"/cache/{spec.name}/{spec.source}")

    async def loaded(self) -> tuple[LoadedAdapter, ...]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.found

    async def unload(self, name: ModelName) -> bool:
        self.unloads.append(name)
        self.full = False
        return True


class Hosts(AdapterHosts):
    def __init__(self) -> None:
        self.engines: dict[EndpointId, Engine] = {}

    def of(self, view: EndpointView) -> Engine:
        return self.engines.setdefault(view.endpoint_id, Engine())

    async def keep(self, known: frozenset[EndpointId]) -> None:
        self.engines = {name: one for name, one in self.engines.items() if name in known}

    async def close(self) -> None:
        self.engines.clear()


class HandClock:
    def __init__(self) -> None:
        self.at_s = 100.0

    def now_s(self) -> float:
        return self.at_s

    async def sleep(self, duration_s: float) -> None:
        raise AssertionError("nothing here sleeps")


@dataclass
class Client:
    """The part of a sink that is looked at."""

    gone: bool = False
    on_gone: Callable[[], None] = field(default=lambda: None)

    def leave(self) -> None:
        self.gone = True
        self.on_gone()


class Setting:
    def __init__(self, *specs: AdapterSpec, **settings: object) -> None:
        self.router = router(view(A), view(B))
        self.clock, self.hosts = HandClock(), Hosts()
        self.list = ListedAdapters(specs)
        self.adapters = Adapters(
            AdapterSettings.model_validate(settings),
            self.router,
            self.list,
            hosts=self.hosts,
            clock=self.clock,
            telemetry=Telemetry(CollectorRegistry()),
        )
        self.told = 0
        self.views: tuple[EndpointView, ...] = (view(A), view(B))
        self.adapters.changed = self._changed
        self.adapters.apply()

    def _changed(self) -> None:
        self.told += 1
        self.look()

    def look(self, *views: EndpointView) -> None:
        self.views = views or self.views
        seen = self.adapters.seen(self.views)
        self.router.set_endpoints(seen, self.clock.now_s())

    @property
    def a(self) -> EndpointView:
        return self.router.endpoint(A)

    def engine(self, endpoint: EndpointId = A) -> Engine:
        return self.hosts.of(self.router.endpoint(endpoint))

    async def ensure(self, name: ModelName = X, client: Client | None = None) -> None:
        await self.adapters.ensure(self.a, name, client or Client())  # type: ignore[arg-type]


async def test_it_is_loaded_once_and_the_endpoint_serves_it_from_then_on() -> None:
    s = Setting(spec(X))
    assert not s.adapters.ready(s.a, X)
    await s.ensure()
    await s.ensure()
    assert s.engine().loads == [X]
    assert s.adapters.ready(s.a, X)
    assert dict(zip(s.a.models, s.a.files, strict=True))[X] == ModelFiles("/cache/x/file:///1", M)


async def test_other_models_need_nothing() -> None:
    s = Setting(spec(X))
    assert s.adapters.ready(s.a, M)
    await s.ensure(M)
    assert s.engine().loads == []


async def test_all_who_wait_share_one_load_and_one_who_leaves_does_not_end_it() -> None:
    s = Setting(spec(X))
    s.engine().go = go = asyncio.Event()
    client = Client()
    leaving = asyncio.create_task(s.ensure(client=client))
    staying = asyncio.create_task(s.ensure())
    await asyncio.sleep(0)
    client.leave()
    with pytest.raises(ClientGone):
        await leaving
    go.set()
    await staying
    assert s.engine().loads == [X]


async def test_a_load_that_takes_too_long_lets_the_request_go_elsewhere() -> None:
    s = Setting(spec(X), load_s=0.01)
    s.engine().go = asyncio.Event()
    with pytest.raises(EngineTimeout, match="'x' was not loaded within"):
        await s.ensure()
    await s.adapters.close()


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (ArtifactError("no such folder"), EngineRefused),
        (InvalidRequest("rank: too wide"), EngineRefused),
        (EngineUnreachable("gone"), EngineUnreachable),
        (Overloaded("64 are loaded"), Overloaded),
    ],
)
async def test_a_failed_load_says_why_and_that_endpoint_rests_for_that_adapter(
    error: HeadraceError, becomes: type[HeadraceError]
) -> None:
    s = Setting(spec(X), spec(Y), rest_s=5.0)
    s.engine().error = error
    with pytest.raises(becomes, match=str(error)):
        await s.ensure()
    assert s.adapters.resting(X) == {A}
    assert s.adapters.resting(Y) == frozenset()
    assert str(error) in str(s.adapters.why(X))
    s.clock.at_s += 5.1
    assert s.adapters.resting(X) == frozenset()
    assert s.adapters.why(X) is None


async def test_another_digest_is_another_version_and_none_is_looked_at_again_in_time() -> None:
    s = Setting(spec(X, digest="sha256:" + "1" * 64), spec(Y), recheck_s=10.0)
    await s.ensure(X)
    await s.ensure(Y)
    s.clock.at_s += 9.0
    assert s.adapters.ready(s.a, X)
    assert s.adapters.ready(s.a, Y)
    s.clock.at_s += 2.0
    s.look(replace(s.a, models=s.a.models), view(B))
    assert s.adapters.ready(s.a, X)
    assert not s.adapters.ready(s.a, Y)
    s.list.replace([spec(X, "file:///2", digest="sha256:" + "2" * 64), spec(Y)])
    s.adapters.apply()
    assert not s.adapters.ready(s.a, X)
    await s.ensure(X)
    assert s.engine().loads == [X, Y, X]


async def test_what_an_engine_says_later_wins_over_what_we_remember() -> None:
    s = Setting(spec(X, digest="sha256:" + "1" * 64))
    await s.ensure()
    s.look()
    assert s.adapters.ready(s.a, X), "its list may have been read before the load"
    s.clock.at_s += 60.0
    s.look()
    assert not s.adapters.ready(s.a, X)


async def test_an_engine_that_went_down_has_lost_it() -> None:
    s = Setting(spec(X))
    await s.ensure()
    s.look(view(A, health=Health.DOWN), view(B))
    s.look()
    assert not s.adapters.ready(s.a, X)


async def test_room_is_made_by_what_is_idle_and_never_by_a_pinned_one() -> None:
    s = Setting(spec(X, pinned=True), spec(Y), spec(Z), per_endpoint=2)
    for name in (X, Y, Z):
        await s.ensure(name)
    assert s.engine().unloads == [Y]
    s.list.replace([spec(X, pinned=True), spec(Y), spec(Z, pinned=True)])
    s.adapters.apply()
    with pytest.raises(Overloaded, match="all in use or pinned"):
        await s.ensure(Y)


async def test_a_name_that_an_engine_does_not_know_any_more_is_loaded_again() -> None:
    s = Setting(spec(X))
    await s.ensure()
    assert s.adapters.lost(s.a, X)
    assert not s.adapters.lost(s.a, X)
    await s.ensure()
    assert s.engine().loads == [X, X]


async def test_the_plan_loads_fixed_replicas_and_unloads_what_was_removed() -> None:
    s = Setting(spec(X, replicas=2))
    await s.adapters.plan_once()
    for _ in range(10):  # turns of the loop, for loads that nobody waits for
        await asyncio.sleep(0)
    assert (s.engine(A).loads, s.engine(B).loads) == ([X], [X])
    s.list.replace([])
    s.adapters.apply()
    await s.adapters.plan_once()
    assert (s.engine(A).unloads, s.engine(B).unloads) == ([X], [X])
    assert s.a.models == (M,)


def test_two_adapters_of_one_name_are_refused() -> None:
    entry = AdapterEntry(name="x", base="m", source="file:///x")
    with pytest.raises(ValueError, match="2 adapters are called 'x'"):
        AdapterSettings(known=(entry, entry))


async def test_an_endpoint_with_a_bound_of_its_own_gives_up_one_for_the_next() -> None:
    s = Setting(spec(X), spec(Y), spec(Z))
    s.look(replace(view(A), adapter_room=2))
    for name in (X, Y, Z):
        s.clock.at_s += 1.0
        await s.ensure(name)
    assert s.engine().unloads == [X]


async def test_where_another_gateway_filled_an_endpoint_one_of_its_adapters_gives_way() -> None:
    s = Setting(spec(X), spec(Y))
    s.look(view(A, M, Y), view(B))
    s.engine().full = True
    await s.ensure(X)
    assert s.engine().unloads == [Y]
    assert s.engine().loads == [X, X]
    assert s.adapters.ready(s.a, X)


async def test_what_nobody_here_knows_does_not_give_way() -> None:
    s = Setting(spec(X))
    s.look(view(A, M, Y), view(B))
    s.engine().full = True
    with pytest.raises(Overloaded):
        await s.ensure(X)
    assert s.engine().unloads == []


async def test_what_was_left_from_before_is_unloaded_where_the_list_is_all_there_is() -> None:
    s = Setting()
    left = replace(
        view(A, M, X), files=(None, ModelFiles("/cache/x", M)), runtime_url="http://sidecar"
    )
    s.look(left, view(B))
    s.engine().found = (LoadedAdapter(X, "/cache/x", ours=True),)
    for _ in range(2):
        await s.adapters.plan_once()
        s.clock.at_s += 1_000.0
    assert s.engine().unloads == [], "settings may differ from gateway to gateway"
    s.list.tells_all = True
    for _ in range(2):
        await s.adapters.plan_once()
        s.clock.at_s += 1_000.0
    assert s.engine().unloads == [X]
