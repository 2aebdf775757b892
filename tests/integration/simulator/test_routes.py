"""The routes around generation, and HTTP itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from headrace.simulator.http.fleet import Fleet

StartFleet = Callable[..., Awaitable[Fleet]]
MODEL = "Llama-3.1-8B"
BODY = {"model": MODEL, "prompt": "word" * 100, "max_tokens": 20, "ignore_eos": True}


async def samples(http: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """Return the page's samples, by name and the labels that differ within an engine."""
    async with http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    told: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            extra = {k: v for k, v in sample.labels.items() if k not in {"engine", "model_name"}}
            told[sample.name + (json.dumps(extra) if extra else "")] = sample.value
    return told


async def test_metrics_parse_and_count_what_was_served(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet()
    url = fleet.infos()[0].url
    for _ in range(2):
        async with http.post(f"{url}/v1/completions", json=BODY) as answer:
            assert answer.status == 200
    told = await samples(http, url)
    assert told["vllm:num_requests_running"] == told["vllm:num_requests_waiting"] == 0.0
    assert told["vllm:prompt_tokens_total"] == 200.0
    assert told["vllm:generation_tokens_total"] == 40.0
    assert told["vllm:prefix_cache_queries_total"] == 200.0
    assert told["vllm:prefix_cache_hits_total"] == 96.0
    assert told['vllm:prompt_tokens_by_source_total{"source": "local_cache_hit"}'] == 96.0
    assert told['vllm:request_success_total{"finished_reason": "length"}'] == 2.0
    assert told["vllm:time_to_first_token_seconds_count"] == 2.0
    assert told["vllm:inter_token_latency_seconds_count"] == 2 * 19
    assert told['vllm:e2e_request_latency_seconds_bucket{"le": "+Inf"}'] == 2.0
    assert 0.0 < told["vllm:time_to_first_token_seconds_sum"] < 5.0
    assert told["vllm:iteration_tokens_total_sum"] == 200 - 96 + 2 * 19
    config = next(name for name in told if name.startswith("vllm:cache_config_info"))
    assert json.loads(config.partition("_info")[2])["block_size"] == "16"


async def test_gauges_show_a_running_request_and_its_adapter(
    start_fleet: StartFleet,
    http: aiohttp.ClientSession,
    eventually: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    fleet = await start_fleet(time_scale=1.0)
    url = fleet.infos()[0].url
    adapter = {"lora_name": "ad1", "lora_path": "/a"}
    async with http.post(f"{url}/v1/load_lora_adapter", json=adapter) as answer:
        assert answer.status == 200
    app = fleet.engines[0].app
    assert app is not None
    body = {**BODY, "model": "ad1", "max_tokens": 8000, "stream": True}
    async with http.post(f"{url}/v1/completions", json=body) as answer:
        await answer.content.readany()
        await answer.content.readany()
        told = await samples(http, url)
        async with http.get(f"{url}/load") as load:
            assert (await load.json()) == {"server_load": 1}
        answer.close()
    assert told["vllm:num_requests_running"] == 1.0
    assert told["vllm:kv_cache_usage_perc"] > 0.0
    assert any('"running_lora_adapters": "ad1"' in name for name in told)
    await eventually(lambda: app.host.queued == 0)


async def test_adapters_load_unload_and_answer_as_vllm_does(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    url = (await start_fleet()).infos()[0].url

    async def post(path: str, body: dict[str, object]) -> tuple[int, str]:
        async with http.post(f"{url}{path}", json=body) as answer:
            return answer.status, await answer.text()

    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    adapter: dict[str, object] = {"lora_name": "ad1", "lora_path": "/a"}
    said = "Success: LoRA adapter 'ad1' added successfully."
    assert await post(load, adapter) == (200, said)
    status, text = await post(load, adapter)
    assert status == 400
    assert json.loads(text)["error"]["type"] == "InvalidUserInput"
    assert (await post(load, adapter | {"load_inplace": True}))[0] == 200
    assert (await post(load, {"lora_name": "b", "lora_path": "/missing"}))[0] == 404
    assert (await post(load, {"lora_name": "b"}))[0] == 400
    async with http.get(f"{url}/v1/models") as answer:
        cards = (await answer.json())["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [(MODEL, None), ("ad1", MODEL)]
    status, base = await post("/v1/completions", BODY)
    status, adapted = await post("/v1/completions", {**BODY, "model": "ad1"})
    assert status == 200
    assert json.loads(adapted)["model"] == "ad1"
    assert json.loads(adapted)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert json.loads(base)["choices"][0]["text"]
    assert (await post(unload, {"lora_name": "ad1"}))[0] == 200
    assert (await post(unload, {"lora_name": "ad1"}))[0] == 404
    assert (await post("/v1/completions", {**BODY, "model": "ad1"}))[0] == 404


async def test_an_engine_without_adapters_says_so(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    url = (await start_fleet(engine__enable_lora=False)).infos()[0].url
    adapter = {"lora_name": "ad1", "lora_path": "/a"}
    async with http.post(f"{url}/v1/load_lora_adapter", json=adapter) as answer:
        assert answer.status == 500
        assert "LoRA is not enabled" in await answer.text()


async def test_tokens_go_there_and_back(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    url = (await start_fleet()).infos()[0].url
    text = "hello world, again"
    async with http.post(f"{url}/tokenize", json={"model": MODEL, "prompt": text}) as answer:
        told = await answer.json()
    assert told["count"] == len(told["tokens"]) == 5
    assert told["max_model_len"] == 8192
    async with http.post(f"{url}/detokenize", json={"tokens": told["tokens"]}) as answer:
        assert (await answer.json()) == {"prompt": text}
    chat = {"messages": [{"role": "user", "content": text}], "return_token_strs": True}
    async with http.post(f"{url}/tokenize", json=chat) as answer:
        told = await answer.json()
    async with http.post(
        f"{url}/v1/chat/completions", json={"messages": chat["messages"], "max_tokens": 1}
    ) as answer:
        usage = (await answer.json())["usage"]
    assert told["count"] == usage["prompt_tokens"]
    assert "".join(told["token_strs"]) == f"<|user|>{text}<|assistant|>"


async def test_a_full_engine_refuses_with_503(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(engine__max_num_queued_reqs=2, time_scale=1.0)
    url = fleet.infos()[0].url
    body = {**BODY, "max_tokens": 400}
    asked = [http.post(f"{url}/v1/completions", json=body) for _ in range(4)]
    answers = await asyncio.gather(*asked)
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [200, 200, 503, 503]
    refused = next(answer for answer in answers if answer.status == 503)
    error = (await refused.json())["error"]
    assert error["type"] == "Service Unavailable"
    assert "currently busy" in error["message"]
    for answer in answers:
        answer.close()
    told = await samples(http, url)
    assert told['vllm:admission_rejections_total{"reason": "max_num_queued_reqs"}'] == 2.0


async def test_priority_decides_who_waits(
    start_fleet: StartFleet,
    http: aiohttp.ClientSession,
    eventually: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    fleet = await start_fleet(engine__max_num_seqs=1, engine__scheduling="priority")
    url = fleet.infos()[0].url
    ended: list[int] = []

    async def ask(priority: int) -> None:
        async with http.post(f"{url}/v1/completions", json={**BODY, "priority": priority}) as got:
            assert got.status == 200
            await got.read()
        ended.append(priority)

    app = fleet.engines[0].app
    assert app is not None
    app.host.faults.hung = True
    tasks = [asyncio.create_task(ask(priority)) for priority in (5, 3, 1, 4)]
    host = app.host
    await eventually(lambda: host.queued == 4)
    host.faults.clear()
    host.wake()
    await asyncio.gather(*tasks)
    assert ended == [1, 3, 4, 5]


async def test_the_clients_request_id_comes_back(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    url = (await start_fleet()).infos()[0].url
    headers = {"X-Request-Id": "abc-1"}
    async with http.post(f"{url}/v1/completions", json=BODY, headers=headers) as answer:
        assert answer.headers["x-request-id"] == "abc-1"
        assert (await answer.json())["id"] == "cmpl-abc-1"
    same = [http.post(f"{url}/v1/completions", json=BODY, headers=headers) for _ in range(3)]
    for answer in await asyncio.gather(*same):
        assert answer.status == 200
        answer.release()


async def test_a_prefill_engine_hands_over_and_a_decode_engine_computes_nothing_again(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    prefill = (await start_fleet(engine__role="prefill")).infos()[0].url
    decode = (await start_fleet(engine__role="decode")).infos()[0].url
    first = {**BODY, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
    async with http.post(f"{prefill}/v1/completions", json=first) as answer:
        params = (await answer.json())["kv_transfer_params"]
    assert params["do_remote_prefill"] is True
    second = {**BODY, "kv_transfer_params": params}
    async with http.post(f"{decode}/v1/completions", json=second) as answer:
        assert answer.status == 200
    told = await samples(http, decode)
    assert told["vllm:external_prefix_cache_hits_total"] == 99.0
    assert told['vllm:prompt_tokens_by_source_total{"source": "local_compute"}'] == 1.0


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/health", 200, ""),
        ("GET", "/nowhere", 404, '{"detail":"Not Found"}'),
        ("GET", "/v1/completions", 405, '{"detail":"Method Not Allowed"}'),
        ("HEAD", "/health", 405, ""),
    ],
)
async def test_unknown_paths_and_methods_are_told_as_fastapi_does(
    start_fleet: StartFleet,
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    status: int,
    body: str,
) -> None:
    url = (await start_fleet()).infos()[0].url
    async with http.request(method, url + path) as answer:
        assert (answer.status, await answer.text()) == (status, body)


async def raw(fleet: Fleet, data: bytes) -> bytes:
    """Send bytes as they are and return all that comes until the engine closes."""
    port = int(fleet.infos()[0].url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def post(body: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"POST /v1/completions HTTP/" + version, b"host: x", b"content-type: application/json"]
    lines += [b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CLOSE = b"connection: close"


async def test_pipelined_requests_are_answered_in_order(start_fleet: StartFleet) -> None:
    fleet = await start_fleet()
    bodies = [json.dumps({**BODY, "prompt": f"{i:04d}", "max_tokens": 3 - i}) for i in range(3)]
    data = b"".join(post(body.encode()) for body in bodies[:2]) + post(bodies[2].encode(), CLOSE)
    text = await raw(fleet, data)
    told = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in text.split(b"HTTP/1.1 ")[1:]]
    assert [answer["usage"]["completion_tokens"] for answer in told] == [3, 2, 1]


async def test_an_old_client_gets_a_stream_without_chunk_lengths(start_fleet: StartFleet) -> None:
    body = json.dumps({**BODY, "stream": True, "max_tokens": 3}).encode()
    text = await raw(await start_fleet(), post(body, version=b"1.0"))
    head, _, events = text.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")


async def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet(limits__body_bytes=2048)
    head = post(b"").replace(b"content-length: 0", b"content-length: 100000000")
    assert (await raw(fleet, head)).startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_that_grows_too_large_is_refused(start_fleet: StartFleet) -> None:
    fleet = await start_fleet(limits__body_bytes=2048)
    head = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    data = head + b"1000\r\n" + b"x" * 4096 + b"\r\n"
    assert (await raw(fleet, data)).startswith(b"HTTP/1.1 413 ")


async def test_headers_without_end_are_refused(start_fleet: StartFleet) -> None:
    fleet = await start_fleet(limits__header_bytes=2048)
    assert (await raw(fleet, post(b"{}", b"x: " + b"y" * 4096))).startswith(b"HTTP/1.1 431 ")


async def test_what_is_not_http_is_refused(start_fleet: StartFleet) -> None:
    assert (await raw(await start_fleet(), b"\x16\x03\x01 hello\r\n\r\n")).startswith(
        b"HTTP/1.1 400 "
    )


async def test_a_waiting_client_is_told_to_send_its_body(start_fleet: StartFleet) -> None:
    body = json.dumps({**BODY, "max_tokens": 1}).encode()
    text = await raw(await start_fleet(), post(body, b"expect: 100-continue", CLOSE))
    assert text.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_idle_connections_close_and_connections_beyond_the_limit_are_closed(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet(limits__keep_alive_s=0.2, limits__connections=1)
    port = int(fleet.infos()[0].url.rpartition(":")[2])
    first, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await first.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    try:
        beyond = await raw(fleet, b"")
    except ConnectionError:
        beyond = b""
    assert beyond == b""
    async with asyncio.timeout(10):
        assert await first.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_does_not_read_its_stream_is_cut_off(
    start_fleet: StartFleet,
    eventually: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    fleet = await start_fleet(
        time_scale=1000.0, limits__unread_bytes=65_536, engine__max_model_len=100_000
    )
    port = int(fleet.infos()[0].url.rpartition(":")[2])
    app = fleet.engines[0].app
    assert app is not None
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    body: dict[str, Any] = {**BODY, "max_tokens": 90_000, "stream": True, "n": 4}
    writer.write(post(json.dumps(body).encode()))
    await eventually(lambda: app.host.stats.ended["abort"] == 4)
    assert app.host.queued == 0
    writer.transport.abort()
