"""What a sidecar relies on in an engine: readiness, load, adapters, drain.

Run against the simulated engine and vLLM. SGLang cannot be installed on a machine without a GPU:
what runs here in its place is ``tests/support/fake_sglang.py``, made from its published source.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import aiohttp
import pytest

from controller.fleets.config import FleetSettings
from headrace.core.adapter import AdapterSpec
from headrace.core.errors import InvalidRequest
from headrace.core.ids import ModelName
from headrace.runtime.adapters import LoadedAdapter
from headrace.runtime.client import ClientLimits, EngineClient
from headrace.runtime.sidecar.client import SidecarClient
from headrace.service.settings import load_settings
from tests.contract.conftest import simulated, vllm
from tests.support.fake_sglang import BASE, FakeSglang
from tests.support.fleet_thread import FleetThread
from tests.support.peft_files import adapter_files, write_files
from tests.support.sidecar_task import serving, until
from tests.support.vllm_env import make_model, require_vllm

RANK = 8
MOST_RANK = 16
SHAPE = (
    b'{"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1,'
    b' "num_hidden_layers": 1}'
)


@dataclass(frozen=True, slots=True)
class Program:
    """One engine program; ``url`` is None for what is started per test."""

    name: str
    model: ModelName
    folder: Path
    url: str | None = None

    def called(self, adapter: str) -> str:
        """Return what a request says to be served by an adapter."""
        return f"{self.model}:{adapter}" if self.name == "sglang" else adapter


@pytest.fixture(
    scope="module",
    params=["simulated", "sglang", pytest.param("vllm", marks=pytest.mark.vllm)],
    ids=["simulated", "a fake of sglang", "vllm"],
)
def program(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    folder = write_files(tmp_path_factory.mktemp("model"), {"config.json": SHAPE})
    if request.param == "sglang":
        yield Program("sglang", ModelName(BASE), folder)
        return
    if request.param == "vllm":
        require_vllm(request)
        folder = make_model()
        settings, ready_s = with_adapters(vllm(folder)), 240.0
    else:
        settings, ready_s = simulated(), 30.0
    with FleetThread(settings, ready_s) as fleet:
        (view,) = fleet.endpoints()
        yield Program(request.param, view.models[0], folder, view.url)


def with_adapters(settings: FleetSettings) -> FleetSettings:
    values = settings.model_dump(exclude_unset=True)
    values["engine_args"] = [
        *values["engine_args"],
        *("--enable-lora", "--max-loras", "2", "--max-lora-rank", str(MOST_RANK)),
    ]
    values["env"] = {**values["env"], "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    return load_settings(FleetSettings, None, values)


@dataclass(frozen=True, slots=True)
class Beside:
    """A sidecar ``at`` a URL, its engine at another, and a place for adapters that it may read."""

    program: Program
    url: str
    at: str
    client: SidecarClient
    http: aiohttp.ClientSession
    kept: Path

    def keep(self, at: str, *, rank: int = RANK, seed: int = 0) -> str:
        """Put an adapter where the sidecar may read it; return its source."""
        files = adapter_files(self.program.folder, rank=rank, seed=seed)
        return str(write_files(self.kept / at, files))

    async def load(self, name: str, source: str) -> LoadedAdapter:
        spec = AdapterSpec(name=ModelName(name), base=self.program.model, source=source)
        return await self.client.load(spec)

    async def says(self, model: str, seed: int = 1, tokens: int = 8) -> str:
        """Return what a model answers to a prompt that fills several blocks."""
        prompt = [Random(seed).randrange(300, 900) for _ in range(100)]
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        url = self.url + "/v1/completions"
        async with self.http.post(url, json={**body, "ignore_eos": True}) as reply:
            assert reply.status == 200, await reply.text()
            return str((await reply.json())["choices"][0]["text"])


@pytest.fixture
async def beside(program: Program, tmp_path: Path) -> AsyncIterator[Beside]:
    async with AsyncExitStack() as stack:
        url = program.url
        if url is None:
            url = (await stack.enter_async_context(FakeSglang())).url
        values = {
            "engine.url": url,
            "engine.program": program.name,
            "artifacts.cache_dir": tmp_path / "cache",
            "artifacts.allow": [f"file://{tmp_path}/kept"],
            "probe.starting_period_s": 0.05,
            "drain.settle_s": 0.2,
            "drain.look_s": 0.05,
        }
        at = await stack.enter_async_context(serving(values))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        client = SidecarClient(http, at)
        await until(client.ready)
        yield Beside(program, url, at, client, http, tmp_path / "kept")
        for adapter in await client.loaded():
            await client.unload(adapter.name)


async def test_the_engine_is_found_ready_and_its_load_is_read(beside: Beside) -> None:
    state = await beside.client.state()
    assert state.engine == beside.program.name
    assert state.models[0] == beside.program.model
    assert (state.running, state.waiting, state.kv_used_ratio) == (0, 0, 0.0)


async def test_tokens_are_counted_under_our_names(beside: Beside) -> None:
    limits = ClientLimits(timeout_s=10)
    engine = EngineClient(beside.http, beside.url, limits)
    before = await engine.report()
    await beside.says(beside.program.model, seed=2, tokens=5)

    async def counted() -> bool:
        after = await engine.report()
        return (
            after.prompt_tokens - before.prompt_tokens == 100
            and after.output_tokens - before.output_tokens == 5
        )

    await until(counted)
    async with beside.http.get(beside.at + "/metrics") as reply:
        page = await reply.text()
    assert "\nheadrace_engine_output_tokens_total " in page


async def test_an_adapter_is_loaded_listed_serves_and_is_unloaded(beside: Beside) -> None:
    plain = await beside.says(beside.program.model)
    loaded = await beside.load("ad", beside.keep("ad"))
    assert await beside.client.loaded() == (loaded,)
    assert loaded.digest is not None
    called = beside.program.called("ad")
    assert await beside.says(called) != plain
    assert await beside.load("ad", beside.keep("ad")) == loaded
    assert await beside.says(beside.program.model) == plain
    assert await beside.client.unload(ModelName("ad"))
    assert not await beside.client.unload(ModelName("ad"))
    assert await beside.client.loaded() == ()


async def test_another_version_takes_the_place_of_the_one_before_with_nothing_of_its_kv(
    beside: Beside,
) -> None:
    called = beside.program.called("ad")
    old = await beside.load("ad", beside.keep("ad", seed=1))
    before = await beside.says(called)
    assert await beside.says(called) == before
    new = await beside.load("ad", beside.keep("ad", seed=2))
    assert new.path != old.path
    assert await beside.client.loaded() == (new,)
    after = await beside.says(called)
    assert after != before
    await beside.client.unload(ModelName("ad"))
    await beside.load("ad", beside.keep("ad", seed=1))
    assert await beside.says(called) == before, "the first version is what it was"


async def test_what_is_no_adapter_is_the_callers_mistake_and_leaves_nothing(
    beside: Beside,
) -> None:
    source = str(write_files(beside.kept / "missing", {"readme": b"no adapter"}))
    with pytest.raises(InvalidRequest) as raised:
        await beside.load("missing", source)
    assert raised.value.field == "source"
    assert await beside.client.loaded() == ()


@pytest.mark.parametrize(
    "program", [pytest.param("vllm", marks=pytest.mark.vllm)], indirect=True, ids=["vllm"]
)
async def test_a_rank_that_the_engine_was_not_started_for_is_named(beside: Beside) -> None:
    with pytest.raises(InvalidRequest, match=str(MOST_RANK)) as raised:
        await beside.load("wide", beside.keep("wide", rank=2 * MOST_RANK))
    assert raised.value.field == "rank"
    assert await beside.client.loaded() == ()


async def test_a_drain_ends_after_the_last_token(beside: Beside) -> None:
    reply = asyncio.create_task(beside.says(beside.program.model, seed=3, tokens=200))

    async def runs() -> bool:
        report = await EngineClient(beside.http, beside.url, ClientLimits()).report()
        return bool(report.running)

    await until(runs)
    told = await beside.client.drain(60)
    assert reply.done()
    assert (told.why, told.running) == ("idle", 0)
    assert not await beside.client.ready()
    await reply
