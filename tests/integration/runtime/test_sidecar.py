"""The sidecar as a process beside a simulated engine in this one, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from headrace.core.adapter import AdapterSpec
from headrace.core.errors import (
    ArtifactError,
    ConfigError,
    EngineUnreachable,
    InvalidRequest,
    Overloaded,
    Unauthenticated,
)
from headrace.core.ids import ModelName
from headrace.runtime.sidecar.client import SidecarClient
from headrace.service.clock import RealClock
from headrace.service.http import HttpLimits, make_session
from headrace.service.settings import load_settings
from headrace.simulator.config import SimulatorSettings
from headrace.simulator.http.fleet import Fleet
from tests.integration.runtime.conftest import Spawn
from tests.support.file_server import FileServer
from tests.support.sidecar_task import LIMIT_S, serving, until

BASE = ModelName("small")
FILES = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": b"w" * 50_000}


@dataclass
class Beside:
    """A sidecar of this process and its engine."""

    url: str
    engine: Fleet
    client: SidecarClient
    http: aiohttp.ClientSession

    @property
    def engine_url(self) -> str:
        (info,) = self.engine.infos()
        return info.url

    async def ready(self, *, wanted: bool = True) -> None:
        """Wait until the sidecar is ready, or is not."""
        await until(self.client.ready, wanted=wanted)

    async def post(self, path: str, body: object) -> aiohttp.ClientResponse:
        reply = await self.http.post(self.engine_url + path, json=body)
        await reply.read()
        return reply


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with make_session(HttpLimits()) as session:
        yield session


@pytest.fixture
async def engine() -> AsyncIterator[Fleet]:
    values = {
        "count": 1,
        "time_scale": 5.0,
        "engine.served_names": [BASE],
        "engine.max_model_len": 8192,
        "kv_events.enabled": True,
        "kv_events.endpoint": "tcp://127.0.0.1:*",
        "kv_events.replay_endpoint": "tcp://127.0.0.1:*",
    }
    async with Fleet(load_settings(SimulatorSettings, None, values), RealClock()) as fleet:
        yield fleet


@pytest.fixture
async def sidecar(
    engine: Fleet, http: aiohttp.ClientSession, server: FileServer, tmp_path: Path
) -> AsyncIterator[Beside]:
    (info,) = engine.infos()
    values = {
        "engine.url": info.url,
        "engine.program": "simulated",
        "engine.adapters": 2,
        "artifacts.cache_dir": tmp_path / "cache",
        "artifacts.allow": [server.url],
        "probe.period_s": 0.05,
        "probe.starting_period_s": 0.02,
        "probe.measure_tokens": 0,
        "drain.settle_s": 0.3,
        "drain.limit_s": 20,
        "drain.look_s": 0.02,
    }
    async with serving(values) as url:
        yield Beside(url, engine, SidecarClient(http, url), http)


def spec(server: FileServer, name: str = "ad", at: str = "a", **more: object) -> AdapterSpec:
    values: dict[str, object] = {"rank": None, "digest": None, **more}
    return AdapterSpec(name=ModelName(name), base=BASE, source=f"{server.url}/{at}/", **values)  # type: ignore[arg-type]


async def test_it_is_ready_once_the_engine_has_generated_a_token(sidecar: Beside) -> None:
    await sidecar.ready()
    async with sidecar.http.get(sidecar.url + "/healthz") as reply:
        assert reply.status == 200
    state = await sidecar.client.state()
    assert (state.health, state.ready, state.models) == ("ready", True, (BASE,))
    report = await (await sidecar.http.get(sidecar.engine_url + "/metrics")).text()
    assert 'vllm:generation_tokens_total{engine="0",model_name="small"} 1.0' in report


async def test_an_engine_that_answers_but_does_not_generate_is_not_ready(
    engine: Fleet, http: aiohttp.ClientSession, sidecar: Beside
) -> None:
    await sidecar.ready()
    await sidecar.post("/headrace/fault", {"kind": "hang"})
    async with http.get(sidecar.engine_url + "/health") as reply:
        assert reply.status == 200
    values = {
        "engine.url": sidecar.engine_url,
        "probe.starting_period_s": 0.02,
        "probe.generate_timeout_s": 0.2,
    }
    async with serving(values) as url:
        late = SidecarClient(http, url)
        for _ in range(10):
            assert not await late.ready()
            await asyncio.sleep(0.05)
        assert (await late.state()).models == (BASE,)


async def test_adapters_are_loaded_from_an_artifact_listed_and_unloaded(
    sidecar: Beside, server: FileServer
) -> None:
    server.folder("a", FILES)
    await sidecar.ready()
    loaded = await sidecar.client.load(spec(server, "org/ad", rank=8))
    assert loaded.digest is not None
    assert await asyncio.to_thread((Path(loaded.path) / "adapter_config.json").read_bytes)
    assert await sidecar.client.loaded() == (loaded,)
    reply = await sidecar.post(
        "/v1/completions", {"model": "org/ad", "prompt": [1, 2, 3], "max_tokens": 2}
    )
    assert reply.status == 200
    asked = len(server.asked)
    assert await sidecar.client.load(spec(server, "org/ad", digest=loaded.digest)) == loaded
    assert len(server.asked) == asked
    assert await sidecar.client.unload(ModelName("org/ad"))
    assert not await sidecar.client.unload(ModelName("org/ad"))
    assert await sidecar.client.loaded() == ()


async def test_a_changed_artifact_is_loaded_in_place_from_a_new_path(
    sidecar: Beside, server: FileServer
) -> None:
    server.folder("a", FILES)
    await sidecar.ready()
    old = await sidecar.client.load(spec(server))
    server.folder("a", {**FILES, "adapter_model.safetensors": b"v" * 50_000})
    new = await sidecar.client.load(spec(server))
    assert (new.path, new.digest) != (old.path, old.digest)
    assert await sidecar.client.loaded() == (new,)
    models = await (await sidecar.http.get(sidecar.engine_url + "/v1/models")).json()
    assert [card["root"] for card in models["data"] if card["parent"]] == [new.path]


async def test_equal_loads_at_once_are_one(sidecar: Beside, server: FileServer) -> None:
    server.folder("a", FILES)
    await sidecar.ready()
    loads = await asyncio.gather(*(sidecar.client.load(spec(server)) for _ in range(8)))
    assert len(set(loads)) == 1
    whole = [told for path, told in server.asked if told == "bytes=0-49999"]
    assert len(whole) == 1


async def test_what_is_wrong_is_told_with_its_field_and_as_the_error_it_was(
    sidecar: Beside, server: FileServer
) -> None:
    server.folder("a", FILES)
    await sidecar.ready()
    client = sidecar.client
    for wrong, field, why in (
        (spec(server, rank=4), "rank", "rank 8, not 4"),
        (spec(server, digest="md5:0"), "digest", "64 lower-case hex digits"),
        (spec(server, BASE), "name", "base model"),
        (AdapterSpec(ModelName("ad"), BASE, "s3://bucket/x"), "source", "not allowed"),
    ):
        with pytest.raises(InvalidRequest, match=why) as raised:
            await client.load(wrong)
        assert raised.value.field == field
    with pytest.raises(ArtifactError, match="404") as gone:
        await client.load(spec(server, at="nothing"))
    assert not gone.value.retry_safe
    assert await client.loaded() == ()
    async with sidecar.http.put(sidecar.url + "/v1/adapters/ad", data=b'{"sauce": 1}') as reply:
        body = await reply.json()
    assert reply.status == 400
    assert "source" in body["error"]["message"]


async def test_a_load_that_failed_is_told_of_until_it_succeeds(
    sidecar: Beside, server: FileServer
) -> None:
    server.folder("a", FILES)
    await sidecar.ready()
    client = sidecar.client
    with pytest.raises(InvalidRequest):
        await client.load(AdapterSpec(ModelName("ad"), BASE, "s3://bucket/x"))
    [failure] = (await client.adapters_told()).failures
    assert (failure.name, failure.source, failure.digest) == ("ad", "s3://bucket/x", None)
    assert "not allowed" in failure.why
    await client.load(spec(server))
    told = await client.adapters_told()
    assert [each.name for each in told.adapters] == ["ad"]
    assert told.failures == ()


async def test_no_more_adapters_than_allowed_are_loaded_but_one_may_replace_itself(
    sidecar: Beside, server: FileServer
) -> None:
    server.folder("a", FILES)
    await sidecar.ready()
    for name in ("one", "two"):
        await sidecar.client.load(spec(server, name))
    with pytest.raises(Overloaded, match="2 adapters are loaded"):
        await sidecar.client.load(spec(server, "three"))
    server.folder("a", {**FILES, "new": b"file"})
    await sidecar.client.load(spec(server, "two"))
    await sidecar.client.unload(ModelName("one"))
    await sidecar.client.load(spec(server, "three"))


async def test_a_restarted_engine_is_loaded_anew_and_not_believed_to_have_what_it_had(
    sidecar: Beside, server: FileServer
) -> None:
    server.folder("a", FILES)
    await sidecar.ready()
    loaded = await sidecar.client.load(spec(server))
    await sidecar.post("/headrace/fault", {"kind": "crash", "restart_after_s": 0.5})
    await sidecar.ready(wanted=False)
    await sidecar.ready()
    assert await sidecar.client.loaded() == ()
    assert await sidecar.client.load(spec(server, digest=loaded.digest)) == loaded


async def test_a_drain_waits_for_the_last_stream_and_until_it_is_quiet(sidecar: Beside) -> None:
    await sidecar.ready()
    body = {"model": BASE, "prompt": [5] * 20, "max_tokens": 300, "ignore_eos": True}
    stream = asyncio.create_task(sidecar.post("/v1/completions", body))

    async def runs() -> bool:
        return bool((await sidecar.client.state()).running)

    await until(runs)
    drain = asyncio.create_task(sidecar.client.drain(LIMIT_S))
    await sidecar.ready(wanted=False)
    reply = await stream
    assert reply.status == 200
    ended = asyncio.get_running_loop().time()
    told = await drain
    assert (told.why, told.running, told.waiting) == ("idle", 0, 0)
    assert asyncio.get_running_loop().time() - ended >= 0.25
    state = await sidecar.client.state()
    assert (state.ready, state.draining, state.health) == (False, True, "ready")


async def test_a_drain_of_an_engine_that_is_gone_ends_at_once(
    sidecar: Beside, http: aiohttp.ClientSession
) -> None:
    await sidecar.ready()
    await sidecar.post("/headrace/fault", {"kind": "crash", "restart_after_s": 3600})
    told = await sidecar.client.drain(LIMIT_S)
    assert told.why == "engine_gone"


async def test_an_engine_that_comes_back_after_a_drain_serves_again(sidecar: Beside) -> None:
    await sidecar.ready()
    assert (await sidecar.client.drain(LIMIT_S)).why == "idle"
    await sidecar.post("/headrace/fault", {"kind": "crash", "restart_after_s": 0.2})
    await sidecar.ready()


async def test_metrics_have_names_that_no_engine_decides(
    sidecar: Beside, server: FileServer
) -> None:
    server.folder("a", FILES)
    await sidecar.ready()
    await sidecar.client.load(spec(server))
    body = {"model": BASE, "prompt": [9] * 64, "max_tokens": 4, "ignore_eos": True}
    for _ in range(2):
        await sidecar.post("/v1/completions", body)
    page = await (await sidecar.http.get(sidecar.url + "/metrics")).text()
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert lines["headrace_engine_up"] == lines["headrace_engine_ready"] == "1.0"
    assert float(lines["headrace_engine_prompt_tokens_total"]) >= 128
    assert float(lines["headrace_engine_output_tokens_total"]) >= 9
    assert float(lines["headrace_engine_prefix_hit_tokens_total"]) > 0
    assert lines["headrace_engine_adapters"] == "1.0"
    assert lines['headrace_artifact_fetches_total{result="fetched",scheme="http"}'] == "1.0"
    assert float(lines["headrace_artifact_cache_bytes"]) == sum(map(len, FILES.values()))


async def test_adapters_ask_for_the_key_where_there_is_one(
    engine: Fleet, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    (info,) = engine.infos()
    values = {"engine.url": info.url, "api_key_file": key}
    async with serving(values) as url:
        with pytest.raises(Unauthenticated):
            await SidecarClient(http, url).loaded()
        headers = {"Authorization": "Bearer s3cret"}
        async with aiohttp.ClientSession(headers=headers) as told:
            assert await SidecarClient(told, url).loaded() == ()
        assert not (await SidecarClient(http, url).state()).draining
    with pytest.raises(EngineUnreachable):
        await SidecarClient(http, url).ready()


async def test_the_command_serves_until_it_is_told_to_stop(
    spawn: Spawn, engine: Fleet, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (info,) = engine.infos()
    words = ("-m", "headrace.cli", "runtime", "--engine-url", info.url, "--engine", "simulated")
    process = await spawn(*words, "--host", "127.0.0.1", "--port", "0", "--cache", str(tmp_path))
    async with asyncio.timeout(90):
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        url = next(word for word in line.split() if word.startswith("http://127.0.0.1"))
        await until(SidecarClient(http, url).ready)
        process.terminate()
        _, err = await process.communicate()
    assert process.returncode == 0, err


async def test_a_folder_to_hold_must_be_in_the_cache(tmp_path: Path) -> None:
    values = {"hold": [tmp_path], "artifacts.cache_dir": tmp_path}
    with pytest.raises(ConfigError, match="hold"):
        async with serving(values):
            pass
