"""A gateway over simulated engines that are given adapters as requests ask for them, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from gateway.config import GatewaySettings
from gateway.process import run_gateway
from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import EndpointView
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.adapter_source import ListedAdapters
from headrace.runtime.config import ProbeSettings
from headrace.runtime.discovery import StaticSource
from headrace.runtime.probe import Prober
from headrace.runtime.sidecar.config import RuntimeSettings
from headrace.runtime.sidecar.process import run_sidecar
from headrace.service.clock import RealClock
from headrace.service.settings import load_settings
from headrace.simulator.config import SimulatorSettings
from headrace.simulator.http.fleet import Fleet
from router.router import Options, Router

SCALE = 20.0
LIMIT_S = 30.0
MODEL = ModelName("sim")


def write_adapter(folder: Path, weights: str) -> str:
    """Write what passes for an adapter; return its URI."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_text(weights)
    return folder.as_uri()


@dataclass
class Served:
    """The fleet, the gateway's router and where to ask."""

    fleet: Fleet
    router: Router
    adapters: ListedAdapters
    url: str
    http: aiohttp.ClientSession
    folder: Path

    def spec(self, name: str, **fields: Any) -> AdapterSpec:
        """Write an adapter of that name and say where it is."""
        source = write_adapter(self.folder / "source" / name, name)
        return AdapterSpec(ModelName(name), MODEL, source, **fields)

    async def ask(self, model: str, text: str = "hello") -> tuple[int, dict[str, Any]]:
        body = {"model": model, "prompt": text, "max_tokens": 4, "ignore_eos": True}
        async with self.http.post(f"{self.url}/v1/completions", json=body) as answer:
            return answer.status, await answer.json()

    async def models(self, url: str) -> dict[str, str]:
        """Return the adapters that a server lists, and their paths as far as it says."""
        async with self.http.get(f"{url}/v1/models") as answer:
            cards = (await answer.json())["data"]
        return {card["id"]: card.get("root", "") for card in cards if card["id"] != MODEL}

    async def loaded(self) -> list[dict[str, str]]:
        """Return the adapters of each engine, by its own account."""
        return [await self.models(info.url) for info in self.fleet.infos()]

    async def metric(self, start: str) -> float:
        async with self.http.get(f"{self.url}/metrics") as answer:
            lines = [line for line in (await answer.text()).splitlines() if line.startswith(start)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Look until something holds that nobody announces."""
        async with asyncio.timeout(LIMIT_S):
            while not await holds():  # noqa: ASYNC110 -- engines announce nothing
                await asyncio.sleep(0.02)


Start = Callable[..., Awaitable[Served]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:
        served: list[tuple[Served, asyncio.Event, asyncio.Task[None]]] = []

        async def make(engines: int = 2, *, beside: bool = False, **settings: object) -> Served:
            values: dict[str, object] = {
                "time_scale": SCALE,
                "count": engines,
                "engine.served_names": [MODEL],
            }
            fleet = await stack.enter_async_context(
                Fleet(load_settings(SimulatorSettings, None, values), RealClock())
            )
            http = await stack.enter_async_context(
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S))
            )
            urls = [info.url for info in fleet.infos()]
            sidecars = [await _sidecar(stack, url, tmp_path) if beside else None for url in urls]
            given = StaticSource(
                EndpointView(
                    EndpointId(f"e{i}"), url, (MODEL,), simulated=True, runtime_url=sidecars[i]
                )
                for i, url in enumerate(urls)
            )
            probe = ProbeSettings(period_s=0.1, measure_tokens=0)
            prober = Prober(given, http, probe, RealClock(), Random(1))
            looking = asyncio.create_task(prober.run())
            stack.callback(looking.cancel)
            async with asyncio.timeout(LIMIT_S):
                while any(not view.files for view in prober.endpoints()):
                    await prober.changed()
            config = GatewaySettings.model_validate(
                {
                    "port": 0,
                    "log_requests": False,
                    "adapters": {
                        "plan_s": 0.05,
                        "rest_s": 0.2,
                        "artifacts": {
                            "cache_dir": str(tmp_path / "cache"),
                            "allow": [(tmp_path / "source").as_uri()],
                        },
                        **settings,
                    },
                }
            )
            router, adapters = Router(options=Options(time_scale=SCALE)), ListedAdapters()
            ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            stop = asyncio.Event()
            task = asyncio.create_task(
                run_gateway(
                    config, router, prober, ready=ready.set_result, stop=stop, adapters=adapters
                )
            )
            one = Served(fleet, router, adapters, await ready, http, tmp_path)
            served.append((one, stop, task))
            return one

        yield make
        for one, stop, task in served:
            stop.set()
            async with asyncio.timeout(LIMIT_S):
                await task
            one.router.check()
            assert all(one.router.inflight(v.endpoint_id) == 0 for v in one.router.endpoints())


async def test_an_adapter_is_listed_before_anyone_has_it_and_loaded_by_the_first_request(
    start: Start,
) -> None:
    served = await start()
    assert (await served.ask("ad"))[0] == 404
    served.adapters.replace([served.spec("ad")])
    await served.until(lambda: _listed(served, "ad"))
    assert await served.loaded() == [{}, {}]
    status, told = await served.ask("ad")
    assert (status, told["model"]) == (200, "ad")
    assert sorted(map(len, await served.loaded())) == [0, 1]
    assert await served.metric("headrace_adapter_loads_total{") == 1.0
    assert await served.metric('headrace_requests_total{model="ad",outcome="served"}') == 1.0


async def test_an_endpoint_with_a_sidecar_loads_through_it(start: Start) -> None:
    served = await start(2, beside=True, artifacts={"cache_dir": "/nowhere", "allow": []})
    served.adapters.replace([served.spec("ad", replicas=2)])
    await served.until(lambda: _copies(served, "ad", 2))
    assert (await served.ask("ad"))[0] == 200
    assert all("sidecar-cache" in adapters["ad"] for adapters in await served.loaded())


async def test_requests_that_come_while_it_is_loaded_share_the_load(start: Start) -> None:
    served = await start(1)
    served.adapters.replace([served.spec("ad")])
    await served.until(lambda: _listed(served, "ad"))
    told = await asyncio.gather(*(served.ask("ad", f"{i}") for i in range(12)))
    assert [status for status, _ in told] == [200] * 12
    assert await served.metric("headrace_adapter_loads_total{") == 1.0


async def test_files_replaced_under_the_same_name_are_served_from_a_new_path(
    start: Start,
) -> None:
    served = await start(1, recheck_s=0.0)
    served.adapters.replace([served.spec("ad")])
    await served.until(lambda: _listed(served, "ad"))
    assert (await served.ask("ad"))[0] == 200
    before = (await served.loaded())[0]["ad"]
    write_adapter(served.folder / "source/ad", "other weights")
    assert (await served.ask("ad"))[0] == 200
    assert (await served.loaded())[0]["ad"] != before


async def test_another_source_under_the_same_name_is_loaded_before_it_is_served(
    start: Start,
) -> None:
    served = await start(1)
    spec = served.spec("ad")
    served.adapters.replace([spec])
    await served.until(lambda: _listed(served, "ad"))
    assert (await served.ask("ad"))[0] == 200
    before = (await served.loaded())[0]["ad"]
    source = write_adapter(served.folder / "source/v2", "second version")
    changed = replace(spec, source=source)
    served.adapters.replace([changed])
    await served.until(lambda: _known(served, changed))
    assert (await served.ask("ad"))[0] == 200
    assert (await served.loaded())[0]["ad"] != before


async def test_the_least_used_makes_room_and_a_pinned_one_stays(start: Start) -> None:
    served = await start(1, per_endpoint=2)
    served.adapters.replace([served.spec("kept", pinned=True), *map(served.spec, ("x", "y"))])
    await served.until(lambda: _listed(served, "y"))
    for name in ("kept", "x", "y"):
        assert (await served.ask(name))[0] == 200
    assert sorted((await served.loaded())[0]) == ["kept", "y"]
    assert await served.metric('headrace_adapter_unloads_total{reason="room"}') == 1.0
    assert (await served.ask("x"))[0] == 200
    assert sorted((await served.loaded())[0]) == ["kept", "x"]


async def test_fixed_replicas_are_loaded_before_anyone_asks_and_removed_ones_unloaded(
    start: Start,
) -> None:
    served = await start(3)
    served.adapters.replace([served.spec("two", replicas=2)])
    await served.until(lambda: _copies(served, "two", 2))
    served.adapters.replace([])
    await served.until(lambda: _copies(served, "two", 0))
    assert (await served.ask("two"))[0] == 404


async def test_one_that_cannot_be_had_is_a_503_that_says_why_and_is_tried_again_later(
    start: Start,
) -> None:
    served = await start(2)
    spec = served.spec("ad")
    gone = AdapterSpec(spec.name, MODEL, (served.folder / "source/nowhere").as_uri())
    served.adapters.replace([gone])
    await served.until(lambda: _listed(served, "ad"))
    status, told = await served.ask("ad")
    assert (status, "nowhere" in told["error"]["message"]) == (502, True)
    status, told = await served.ask("ad")
    assert (status, "nowhere" in told["error"]["message"]) == (503, True)
    assert (await served.ask(MODEL))[0] == 200
    write_adapter(served.folder / "source/nowhere", "now it is")

    async def served_now() -> bool:
        return (await served.ask("ad"))[0] == 200

    await served.until(served_now)


async def test_an_engine_that_forgot_it_is_given_it_again(start: Start) -> None:
    served = await start(1)
    served.adapters.replace([served.spec("ad")])
    await served.until(lambda: _listed(served, "ad"))
    assert (await served.ask("ad"))[0] == 200
    (info,) = served.fleet.infos()
    body = {"lora_name": "ad"}
    async with served.http.post(f"{info.url}/v1/unload_lora_adapter", json=body) as answer:
        assert answer.status == 200

    async def served_again() -> bool:
        return (await served.ask("ad"))[0] == 200

    await served.until(served_again)
    assert list((await served.loaded())[0]) == ["ad"]


async def _sidecar(stack: AsyncExitStack, engine_url: str, folder: Path) -> str:
    """Run a sidecar beside an engine; return its URL."""
    settings = RuntimeSettings.model_validate(
        {
            "host": "127.0.0.1",
            "port": 0,
            "engine": {"url": engine_url, "program": "simulated"},
            "artifacts": {
                "cache_dir": str(folder / "sidecar-cache"),
                "allow": [(folder / "source").as_uri()],
            },
        }
    )
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(run_sidecar(settings, ready=ready.set_result, stop=stop))

    async def end() -> None:
        stop.set()
        async with asyncio.timeout(LIMIT_S):
            await task

    stack.push_async_callback(end)
    return await ready


async def _listed(served: Served, name: str) -> bool:
    return name in await served.models(served.url)


async def _known(served: Served, spec: AdapterSpec) -> bool:
    return served.router.adapters.spec(spec.name) == spec


async def _copies(served: Served, name: str, count: int) -> bool:
    return sum(name in adapters for adapters in await served.loaded()) == count
