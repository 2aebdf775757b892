"""What routing relies on beyond replies: load, cache geometry, aborts, KV events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import aiohttp
import zmq
import zmq.asyncio

from headrace.runtime.client import EngineClient
from headrace.runtime.metrics_text import EngineReport
from kvcache.events import BlockStored, split_message
from kvcache.hashing import BlockHasher, external
from tests.contract.conftest import CONTEXT_TOKENS, Engine

SETTLE_S = 10.0
LOOK_S = 0.05
ENDLESS_TOKENS = CONTEXT_TOKENS - 100


async def report_when(client: EngineClient, holds: Callable[[EngineReport], bool]) -> EngineReport:
    """Look at the engine's metrics until they show something; an engine announces nothing."""
    async with asyncio.timeout(SETTLE_S):
        while True:
            report = await client.report()
            if holds(report):
                return report
            await asyncio.sleep(LOOK_S)


async def aborted(client: EngineClient, before: EngineReport) -> EngineReport:
    """Wait until the engine is idle, and check that its request did not run to its end.

    vLLM 0.32 counts a request whose client left under no reason at all, not even "abort".
    """
    report = await report_when(client, lambda report: report.running == 0)
    for reason in ("stop", "length", "error"):
        assert report.ended(reason) == before.ended(reason)
    assert report.output_tokens - before.output_tokens < ENDLESS_TOKENS / 2
    return report


async def test_metrics_give_load_and_cache_geometry(client: EngineClient, engine: Engine) -> None:
    report = await client.report()
    load = report.load(1.0)
    assert load is not None
    assert (load.running, load.waiting) == (0, 0)
    assert load.kv_used_ratio == 0.0
    assert report.block_tokens == engine.block_tokens
    assert report.kv_tokens is not None
    assert report.kv_tokens >= CONTEXT_TOKENS
    assert report.kv_tokens % engine.block_tokens == 0


async def test_counters_count_tokens_looked_up_found_and_generated(
    client: EngineClient, http: aiohttp.ClientSession, engine: Engine
) -> None:
    prompt = [Random(7).randrange(300, 900) for _ in range(200)]
    body = {"model": engine.model, "prompt": prompt, "max_tokens": 5, "ignore_eos": True}
    before = await client.report()
    for _ in range(2):
        async with http.post(engine.url + "/v1/completions", json=body) as reply:
            assert reply.status == 200
    count = before.ended("length") + 2
    after = await report_when(client, lambda report: report.ended("length") == count)
    assert after.prefix_queries_tokens - before.prefix_queries_tokens == 400
    assert after.prefix_hits_tokens - before.prefix_hits_tokens == 192
    assert after.prompt_tokens - before.prompt_tokens == 400
    assert after.output_tokens - before.output_tokens == 10


async def test_a_client_that_leaves_a_stream_aborts_its_request(
    client: EngineClient, http: aiohttp.ClientSession, engine: Engine
) -> None:
    before = await client.report()
    body = {
        "model": engine.model,
        "prompt": "An endless tale",
        "max_tokens": ENDLESS_TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    async with http.post(engine.url + "/v1/completions", json=body) as reply:
        await reply.content.readline()
        await report_when(client, lambda report: report.running == 1)
        reply.close()
    report = await aborted(client, before)
    assert report.kv_used_ratio == 0.0


async def test_a_client_that_leaves_before_the_reply_aborts_its_request(
    client: EngineClient, http: aiohttp.ClientSession, engine: Engine
) -> None:
    before = await client.report()
    body = {
        "model": engine.model,
        "prompt": "An endless tale",
        "max_tokens": ENDLESS_TOKENS,
        "ignore_eos": True,
    }
    asking = asyncio.create_task(http.post(engine.url + "/v1/completions", json=body).__aenter__())
    await report_when(client, lambda report: report.running == 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await aborted(client, before)


async def test_stored_blocks_are_published_under_the_hashes_we_compute(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    prompt = [Random(11).randrange(300, 900) for _ in range(4 * engine.block_tokens + 3)]
    body = {"model": engine.model, "prompt": prompt, "max_tokens": 1}
    with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe("")
        socket.connect(engine.kv_events.events)
        await subscribed(socket, http, engine)
        async with http.post(engine.url + "/v1/completions", json=body) as reply:
            assert reply.status == 200
        async with asyncio.timeout(SETTLE_S):
            while True:
                topic, _, batch = split_message(await socket.recv_multipart())
                stored = [event for event in batch.events if isinstance(event, BlockStored)]
                if stored and stored[0].token_ids[:8] == prompt[:8]:
                    break
    assert topic == engine.kv_events.topic
    (event,) = stored
    hasher = BlockHasher(engine.block_tokens, "sha256_cbor")
    assert event.block_hashes == [external(digest) for digest in hasher.hashes(prompt)]
    assert event.token_ids == prompt[: 4 * engine.block_tokens]
    assert event.block_size == engine.block_tokens
    assert event.parent_block_hash is None


async def subscribed(
    socket: zmq.asyncio.Socket, http: aiohttp.ClientSession, engine: Engine
) -> None:
    """Make the engine store blocks until one is heard: a subscription takes a while to arrive."""
    for attempt in range(40):
        prompt = [Random(1_000 + attempt).randrange(300, 900) for _ in range(engine.block_tokens)]
        body = {"model": engine.model, "prompt": prompt, "max_tokens": 2, "ignore_eos": True}
        async with http.post(engine.url + "/v1/completions", json=body) as reply:
            assert reply.status == 200
        if await socket.poll(250):
            await socket.recv_multipart()
            return
    raise AssertionError("no KV event was heard")
