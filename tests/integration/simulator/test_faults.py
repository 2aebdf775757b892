"""What happens to clients when an engine is made to fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from headrace.simulator.http.fleet import Fleet
from headrace.simulator.http.host import Host

StartFleet = Callable[..., Awaitable[Fleet]]
Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
MODEL = "Llama-3.1-8B"
LONG = {"model": MODEL, "prompt": "p", "max_tokens": 8000, "ignore_eos": True}
SHORT = {**LONG, "max_tokens": 10}


def host_of(fleet: Fleet, index: int = 0) -> Host:
    app = fleet.engines[index].app
    assert app is not None
    return app.host


async def fault(http: aiohttp.ClientSession, url: str, **body: object) -> dict[str, Any]:
    async with http.post(f"{url}/headrace/fault", json=body) as answer:
        assert answer.status == 200, await answer.text()
        told: dict[str, Any] = await answer.json()
        return told


async def read_on(answer: aiohttp.ClientResponse, into: bytearray) -> None:
    async for part in answer.content.iter_any():
        into += part


async def test_a_client_that_leaves_frees_the_engine_within_a_step(
    start_fleet: StartFleet, http: aiohttp.ClientSession, eventually: Eventually
) -> None:
    fleet = await start_fleet(time_scale=1.0)
    url, host = fleet.infos()[0].url, host_of(fleet)
    async with http.post(f"{url}/v1/completions", json={**LONG, "stream": True}) as answer:
        await answer.content.readany()
        assert host.engine.running == 1
        answer.close()
    await eventually(lambda: host.queued == 0)
    await eventually(lambda: host.facts().running == 0)
    assert host.stats.ended["abort"] == 1
    host.engine.check()
    assert host.engine.kv_used_ratio == 0.0


async def test_a_client_that_leaves_before_its_whole_answer_frees_the_engine_too(
    start_fleet: StartFleet, http: aiohttp.ClientSession, eventually: Eventually
) -> None:
    fleet = await start_fleet(time_scale=1.0)
    url, host = fleet.infos()[0].url, host_of(fleet)
    asked = asyncio.create_task(http.post(f"{url}/v1/completions", json=LONG).__aenter__())
    await eventually(lambda: host.engine.running == 1)
    asked.cancel()
    await eventually(lambda: host.queued == 0)
    assert host.stats.ended["abort"] == 1


async def test_a_crash_breaks_connections_and_a_restart_begins_with_an_empty_cache(
    start_fleet: StartFleet, http: aiohttp.ClientSession, eventually: Eventually
) -> None:
    fleet = await start_fleet(time_scale=1.0, count=2)
    first, second = (info.url for info in fleet.infos())
    warm = {**SHORT, "prompt": "word" * 100}
    async with http.post(f"{first}/v1/completions", json=warm) as answer:
        assert answer.status == 200
    async with http.post(f"{first}/v1/completions", json={**LONG, "stream": True}) as answer:
        await answer.content.readany()
        await fault(http, first, kind="crash")
        with pytest.raises(aiohttp.ClientError):
            await read_on(answer, bytearray())
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get(f"{first}/health")
    async with http.get(f"{second}/health") as answer:
        assert answer.status == 200
    await fault(http, second, kind="restart", engine=0)
    await eventually(lambda: fleet.engines[0].app is not None)
    await eventually(lambda: fleet.engines[0].server is not None)
    async with http.post(f"{first}/v1/completions", json=warm) as answer:
        usage = (await answer.json())["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert fleet.infos()[0].url == first


async def test_a_crashed_engine_comes_back_by_itself_when_told_to(
    start_fleet: StartFleet, http: aiohttp.ClientSession, eventually: Eventually
) -> None:
    fleet = await start_fleet(**{"kv_events.enabled": True})
    info = fleet.infos()[0]
    before = fleet.engines[0].app
    told = await fault(http, info.url, kind="crash", restart_after_s=0.05)
    assert told["engine"] == 0
    await eventually(lambda: fleet.engines[0].app not in {before, None})
    await eventually(lambda: fleet.engines[0].server is not None)
    assert fleet.infos()[0] == info
    async with http.get(f"{info.url}/health") as answer:
        assert answer.status == 200


async def test_a_hung_engine_is_healthy_and_makes_no_progress(
    start_fleet: StartFleet, http: aiohttp.ClientSession, eventually: Eventually
) -> None:
    fleet = await start_fleet(time_scale=1.0)
    url, host = fleet.infos()[0].url, host_of(fleet)
    async with http.post(f"{url}/v1/completions", json={**LONG, "stream": True}) as answer:
        await answer.content.readany()
        await fault(http, url, kind="hang")
        steps = host.engine.counters.steps
        stuck = asyncio.create_task(http.post(f"{url}/v1/completions", json=SHORT).__aenter__())
        await eventually(lambda: host.queued == 2)
        async with http.get(f"{url}/health") as health:
            assert health.status == 200
        assert host.engine.counters.steps == steps
        assert not stuck.done()
        await fault(http, url, kind="clear")
        assert (await stuck).status == 200
        assert host.engine.counters.steps > steps


async def test_a_fault_with_an_end_ends_by_itself(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet()
    url = fleet.infos()[0].url
    await fault(http, url, kind="hang", for_s=0.1)
    async with http.post(f"{url}/v1/completions", json=SHORT) as answer:
        assert answer.status == 200
    assert not host_of(fleet).faults.hung


async def test_a_slow_engine_takes_as_many_times_longer(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(time_scale=4.0)
    url = fleet.infos()[0].url

    async def elapsed_s() -> float:
        begun = time.monotonic()
        async with http.post(f"{url}/v1/completions", json={**SHORT, "max_tokens": 30}) as answer:
            assert answer.status == 200
        return time.monotonic() - begun

    await elapsed_s()
    normal_s = await elapsed_s()
    await fault(http, url, kind="slow", factor=8)
    assert 5 * normal_s < await elapsed_s() < 20 * normal_s


async def test_errors_come_at_the_rate_asked_for(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet()
    url = fleet.infos()[0].url
    await fault(http, url, kind="error", rate=0.5, status=503)
    statuses = []
    for _ in range(40):
        async with http.post(f"{url}/v1/completions", json={**SHORT, "max_tokens": 1}) as answer:
            statuses.append(answer.status)
            if answer.status == 503:
                assert (await answer.json())["error"]["code"] == 503
    assert set(statuses) == {200, 503}
    assert 8 <= statuses.count(503) <= 32
    async with http.get(f"{url}/health") as answer:
        assert answer.status == 200


@pytest.mark.parametrize("after_tokens", [0, 1, 3])
async def test_a_cut_stream_breaks_after_that_many_tokens(
    start_fleet: StartFleet, http: aiohttp.ClientSession, after_tokens: int, eventually: Eventually
) -> None:
    fleet = await start_fleet()
    url = fleet.infos()[0].url
    await fault(http, url, kind="cut_stream", after_tokens=after_tokens)
    data = bytearray()
    async with http.post(f"{url}/v1/completions", json={**SHORT, "stream": True}) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await read_on(answer, data)
    assert data.count(b"data: ") <= after_tokens
    await eventually(lambda: host_of(fleet).queued == 0)


async def test_a_stream_can_end_as_vllms_do_at_shutdown_without_a_reason(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet()
    url = fleet.infos()[0].url
    await fault(http, url, kind="cut_stream", after_tokens=2, how="done")
    async with http.post(f"{url}/v1/completions", json={**SHORT, "stream": True}) as answer:
        text = await answer.text()
    events = [line for line in text.split("\n\n") if line]
    assert events[-1] == "data: [DONE]"
    assert len(events) == 3
    assert '"finish_reason":"' not in text
    assert host_of(fleet).queued == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "explode"}, "kind"),
        ({}, "kind"),
        ({"kind": "slow", "factor": 0}, "factor"),
        ({"kind": "error", "rate": 1.5}, "rate"),
        ({"kind": "error", "status": 200}, "status"),
        ({"kind": "crash", "engine": 7}, "engine"),
        ({"kind": "cut_stream", "after_tokens": -1}, "after_tokens"),
        ({"kind": "hang", "for_s": -1}, "for_s"),
        ({"kind": "hang", "typo": 1}, "typo"),
    ],
)
async def test_a_fault_that_makes_no_sense_is_a_clear_400(
    start_fleet: StartFleet, http: aiohttp.ClientSession, body: dict[str, object], field: str
) -> None:
    url = (await start_fleet()).infos()[0].url
    async with http.post(f"{url}/headrace/fault", json=body) as answer:
        assert answer.status == 400
        assert field in (await answer.json())["error"]["message"]
