"""A gateway over simulated engines of which one only computes prompts, all over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest

from gateway.config import GatewaySettings
from gateway.process import run_gateway
from headrace.core.endpoint import EndpointView, Role, Speed
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.discovery import ListSource
from headrace.service.clock import RealClock
from headrace.service.settings import load_settings
from headrace.simulator.config import SimulatorSettings
from headrace.simulator.http.fleet import Fleet
from router.router import Options, Router

SCALE = 20.0
LIMIT_S = 30.0
ROLES = (Role.PREFILL, Role.DECODE, Role.DECODE)
MODEL = ModelName("sim")
WORDS = "abcd" * 2_000
"""A prompt of 2,000 simulated tokens."""


@dataclass
class Split:
    """The fleet, the gateway's router and where to ask."""

    fleet: Fleet
    router: Router
    url: str
    http: aiohttp.ClientSession

    async def ask(self, text: str, **fields: object) -> dict[str, object]:
        body = {"model": MODEL, "prompt": text, "max_tokens": 40, "ignore_eos": True, **fields}
        async with self.http.post(f"{self.url}/v1/completions", json=body) as answer:
            assert answer.status == 200
            decoded = await answer.json()
            assert isinstance(decoded, dict)
            return decoded

    async def counted(self, name: str) -> list[float]:
        """A counter of every engine."""
        found = []
        for info in self.fleet.infos():
            async with self.http.get(f"{info.url}/metrics") as answer:
                text = await answer.text()
            lines = [line for line in text.splitlines() if line.startswith(name)]
            found.append(sum(float(line.split()[-1]) for line in lines))
        return found


@pytest.fixture
async def split() -> AsyncIterator[Split]:
    """Engines of which those for replies are presumed to compute prompts slowly."""
    values: dict[str, object] = {
        "time_scale": SCALE,
        "count": len(ROLES),
        "roles": [role.value for role in ROLES],
        "engine.max_model_len": 8_192,
        "engine.served_names": [MODEL],
    }
    async with AsyncExitStack() as stack:
        settings = load_settings(SimulatorSettings, None, values)
        fleet = await stack.enter_async_context(Fleet(settings, RealClock()))
        source = ListSource()
        for index, (info, role) in enumerate(zip(fleet.infos(), ROLES, strict=True)):
            speed = Speed(200_000.0 if role is Role.PREFILL else 20_000.0)
            source.put(
                EndpointView(EndpointId(f"e{index}"), info.url, (MODEL,), role=role, speed=speed)
            )
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stop, router = asyncio.Event(), Router(options=Options(time_scale=SCALE))
        config = GatewaySettings.model_validate({"port": 0, "log_requests": False})
        task = asyncio.create_task(
            run_gateway(config, router, source, ready=ready.set_result, stop=stop)
        )
        timeout = aiohttp.ClientTimeout(total=LIMIT_S)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        yield Split(fleet, router, await ready, http)
        stop.set()
        async with asyncio.timeout(LIMIT_S):
            await task
        router.check()
        assert [router.inflight(view.endpoint_id) for view in router.endpoints()] == [0, 0, 0]


async def test_one_engine_computes_the_prompt_and_another_fetches_it(split: Split) -> None:
    told = await split.ask(WORDS)
    usage = told["usage"]
    assert isinstance(usage, dict)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2_000, 40)
    prompts = await split.counted("vllm:prompt_tokens_total")
    assert prompts[0] == 2_000.0
    assert sorted(prompts[1:]) == [0.0, 2_000.0]
    assert sum(await split.counted("vllm:external_prefix_cache_hits_total")) == 1_999.0
    assert (await split.counted("vllm:generation_tokens_total"))[0] == 1.0


async def test_the_reply_is_the_one_that_a_single_engine_gives(split: Split) -> None:
    together = (await split.ask(WORDS))["choices"]
    alone = (await split.ask(WORDS, best_of=1, n=1, kv_transfer_params={}))["choices"]
    assert together == alone


async def test_all_are_served_when_prompts_can_be_computed_nowhere_else(split: Split) -> None:
    split.fleet.engines[0].crash()
    streams = [split.ask(f"{i}{WORDS}") for i in range(8)]
    for told in await asyncio.gather(*streams):
        assert isinstance(told["usage"], dict)
        assert told["usage"]["completion_tokens"] == 40


async def test_an_engine_for_prompts_that_dies_under_load_costs_no_request(split: Split) -> None:
    asked = [asyncio.ensure_future(split.ask(f"{i}{WORDS}")) for i in range(24)]
    await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    split.fleet.engines[0].crash()
    asked += [asyncio.ensure_future(split.ask(f"x{i}{WORDS}")) for i in range(8)]
    for told in await asyncio.gather(*asked):
        assert isinstance(told["usage"], dict)
        assert told["usage"]["prompt_tokens"] >= 2_000
