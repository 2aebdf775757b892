"""The adapters of one engine, with an engine that is a table and a cache that is a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import ModelFiles
from headrace.core.errors import ArtifactError, EngineRefused, InvalidRequest, Overloaded
from headrace.core.ids import ModelName
from headrace.runtime.adapters import AdapterHost, AdapterLimits, LoadedAdapter
from headrace.runtime.client import EngineClient, ServedModels
from headrace.runtime.engines.catalog import DIALECTS, EngineProgram

BASE = ModelName("base")


class Engine(EngineClient):
    """Answers vLLM's calls from a table."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, bool]] = []
        self.refuse = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def models(self) -> ServedModels:
        files = [ModelFiles(path, BASE) for path in self.adapters.values()]
        names = (BASE, *map(ModelName, self.adapters))
        return ServedModels(names, None, (ModelFiles("base"), *files))

    async def post(
        self, path: str, body: Mapping[str, object], timeout_s: float | None = None
    ) -> tuple[int, bytes]:
        self.calls.append((path, bool(body.get("load_inplace"))))
        await self.gate.wait()
        if self.refuse:
            return 500, msgspec.json.encode({"error": {"message": self.refuse}})
        name = str(body["lora_name"])
        if path.endswith("unload_lora_adapter"):
            self.adapters.pop(name)
        else:
            self.adapters[name] = str(body["lora_path"])
        return 200, b"Success"


@dataclass
class Lease:
    path: Path
    digest: str
    held: int = 1

    def release(self) -> None:
        self.held = 0


@dataclass
class Cache:
    """Makes files of what a source is called; ``missing`` is there never."""

    root: Path
    fetched: list[str] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)

    async def fetch(self, name: str, source: str, digest: str | None) -> Lease:
        self.fetched.append(source)
        if source == "missing":
            raise ArtifactError("nothing there")
        return self._lease(self.root / name / source)

    def find(self, path: str) -> Lease | None:
        ours = Path(path).is_relative_to(self.root)
        return self._lease(Path(path)) if ours else None

    def _lease(self, path: Path) -> Lease:
        lease = Lease(path, f"sha256:{path.name}")
        self.leases.append(lease)
        return lease

    def held(self) -> list[str]:
        return sorted(
            {str(lease.path.relative_to(self.root)) for lease in self.leases if lease.held}
        )


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


@pytest.fixture
def host(engine: Engine, cache: Cache) -> AdapterHost:
    return AdapterHost(engine, DIALECTS[EngineProgram.VLLM], cache, AdapterLimits(adapters=2))


def spec(name: str, source: str, digest: str | None = None, rank: int | None = None) -> AdapterSpec:
    return AdapterSpec(ModelName(name), BASE, source, rank, digest)


async def test_an_adapter_is_loaded_once_and_held_until_it_is_unloaded(
    host: AdapterHost, engine: Engine, cache: Cache
) -> None:
    loaded = await host.load(spec("ad", "v1"))
    path = str(cache.root / "ad/v1")
    assert loaded == LoadedAdapter(ModelName("ad"), path, "sha256:v1", ours=True)
    assert await host.load(spec("ad", "v1")) == loaded
    assert await host.load(spec("ad", "elsewhere", digest="sha256:v1")) == loaded
    assert engine.calls == [("/v1/load_lora_adapter", False)]
    assert "elsewhere" not in cache.fetched
    assert cache.held() == ["ad/v1"]
    assert await host.unload(ModelName("ad"))
    assert cache.held() == []


async def test_another_version_is_loaded_in_place_and_the_old_files_are_let_go(
    host: AdapterHost, engine: Engine, cache: Cache
) -> None:
    await host.load(spec("ad", "v1"))
    await host.load(spec("ad", "v2", digest="sha256:v2"))
    assert engine.calls[-1] == ("/v1/load_lora_adapter", True)
    assert engine.adapters == {"ad": str(cache.root / "ad/v2")}
    assert cache.held() == ["ad/v2"]


async def test_equal_calls_at_once_are_one_and_go_on_when_a_caller_leaves(
    host: AdapterHost, engine: Engine
) -> None:
    engine.gate.clear()
    calls = [asyncio.create_task(host.load(spec("ad", "v1"))) for _ in range(3)]
    while not engine.calls:  # noqa: ASYNC110 -- the call is the event
        await asyncio.sleep(0)
    calls[0].cancel()
    engine.gate.set()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1] == done[2]
    assert len(engine.calls) == 1


async def test_versions_asked_for_at_once_are_loaded_one_after_the_other(
    host: AdapterHost, engine: Engine, cache: Cache
) -> None:
    await asyncio.gather(host.load(spec("ad", "v1")), host.load(spec("ad", "v2")))
    assert [inplace for _, inplace in engine.calls] == [False, True]
    assert cache.held() == [f"ad/{Path(engine.adapters['ad']).name}"]


async def test_what_fails_leaves_nothing_held_and_the_name_free(
    host: AdapterHost, engine: Engine, cache: Cache
) -> None:
    with pytest.raises(ArtifactError):
        await host.load(spec("ad", "missing"))
    engine.refuse = "the GPU is on fire"
    with pytest.raises(EngineRefused, match="on fire"):
        await host.load(spec("ad", "v1"))
    assert cache.held() == []
    engine.refuse = ""
    await host.load(spec("ad", "v1"))
    await host.load(spec("other", "v1"))


@pytest.mark.parametrize(
    ("why", "field"),
    [
        ("Call to add_lora method failed: LoRA rank 64 is greater than max_lora_rank 16.", "rank"),
        ("Loading lora ad failed: No adapter found for /p", "source"),
        ("Can't find 'adapter_config.json' at '/p'", "source"),
    ],
)
async def test_a_refusal_that_the_caller_can_mend_names_the_field(
    host: AdapterHost, engine: Engine, why: str, field: str
) -> None:
    engine.refuse = why
    with pytest.raises(InvalidRequest) as raised:
        await host.load(spec("ad", "v1"))
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (spec("", "v1"), "name"),
        (spec("a\n", "v1"), "name"),
        (spec("a" * 300, "v1"), "name"),
        (spec("base", "v1"), "name"),
        (spec("ad", ""), "source"),
        (spec("ad", "v1", rank=0), "rank"),
    ],
)
async def test_a_wrong_field_is_named_before_anything_is_fetched(
    host: AdapterHost, cache: Cache, wrong: AdapterSpec, field: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await host.load(wrong)
    assert raised.value.field == field
    assert cache.fetched == []


async def test_no_more_than_the_limit_are_loaded_also_when_asked_for_at_once(
    host: AdapterHost, engine: Engine
) -> None:
    done = await asyncio.gather(
        host.load(spec("a", "v1")),
        host.load(spec("b", "v1")),
        host.load(spec("c", "v1")),
        return_exceptions=True,
    )
    assert len(engine.adapters) == 2
    assert sum(isinstance(one, Overloaded) for one in done) == 1


async def test_what_an_engine_had_before_us_is_held_and_what_it_lost_is_let_go(
    host: AdapterHost, engine: Engine, cache: Cache
) -> None:
    engine.adapters = {"ours": str(cache.root / "ours/v1"), "theirs": "/elsewhere"}
    loaded = await host.loaded()
    assert [(one.name, one.digest) for one in loaded] == [("ours", "sha256:v1"), ("theirs", None)]
    assert cache.held() == ["ours/v1"]
    engine.adapters = {}
    assert await host.loaded() == ()
    assert cache.held() == []


async def test_closing_stops_what_is_loading_and_lets_go_of_everything(
    host: AdapterHost, engine: Engine, cache: Cache
) -> None:
    await host.load(spec("a", "v1"))
    engine.gate.clear()
    waiting = asyncio.create_task(host.load(spec("b", "v1")))
    while len(engine.calls) < 2:  # noqa: ASYNC110 -- the call is the event
        await asyncio.sleep(0)
    await host.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert cache.held() == []


async def test_what_was_loaded_through_us_is_told_from_what_the_engine_was_started_with(
    host: AdapterHost, engine: Engine, cache: Cache
) -> None:
    engine.adapters = {"static": str(cache.root / "static/v1")}
    assert (await host.load(spec("a", "v1"))).ours
    assert {one.name for one in await host.loaded() if one.ours} == {"a"}
    assert not (await host.load(spec("static", "v2"))).ours, "it is in place of the engine's own"
    assert (await host.load(spec("a", "v2"))).ours
    assert {one.name for one in await host.loaded() if one.ours} == {"a"}
    engine.adapters = {"a": "/elsewhere"}
    assert not any(one.ours for one in await host.loaded()), "it was started anew with its own"
    await host.unload(ModelName("a"))
    engine.adapters = {"a": str(cache.root / "a/v2")}
    assert not any(one.ours for one in await host.loaded())
