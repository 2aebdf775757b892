"""A subscriber sees what the cache holds, under the names that hashing gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import zmq
import zmq.asyncio

from headrace.simulator.http.fleet import Fleet
from headrace.simulator.http.text import encode
from kvcache.events import (
    REPLAY_END,
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EventBatch,
    encode_seq,
    split_message,
)
from kvcache.hashing import BASE, BlockHasher, Scope, external

StartFleet = Callable[..., Awaitable[Fleet]]
Message = tuple[str, int, EventBatch]
MODEL = "Llama-3.1-8B"
PROMPT = "word" * 70
EVENTS = {"kv_events.enabled": True, "kv_events.topic": "kv@{engine}"}


class Subscriber:
    """Receives the messages of one engine, each within a bounded time."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self._socket = socket

    async def next(self) -> Message:
        async with asyncio.timeout(10):
            return split_message(await self._socket.recv_multipart())

    async def stored(self, blocks: int) -> list[BlockStored]:
        seen: list[BlockStored] = []
        while sum(len(event.block_hashes) for event in seen) < blocks:
            batch = (await self.next())[2]
            seen += [event for event in batch.events if isinstance(event, BlockStored)]
        return seen


@asynccontextmanager
async def subscribed(fleet: Fleet) -> AsyncIterator[Subscriber]:
    context = zmq.asyncio.Context(io_threads=1)
    socket = context.socket(zmq.SUB)
    socket.subscribe(b"")
    endpoint = fleet.infos()[0].kv_events
    assert endpoint is not None
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    socket.connect(endpoint)
    try:
        async with asyncio.timeout(10):
            await monitor.recv_multipart()
        await asyncio.sleep(0.05)  # the subscription follows the handshake; nothing tells of it
        yield Subscriber(socket)
    finally:
        socket.disable_monitor()
        context.destroy(linger=0)


async def complete(
    http: aiohttp.ClientSession, fleet: Fleet, output_tokens: int = 1, **more: object
) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": PROMPT, "max_tokens": output_tokens, "ignore_eos": True}
    async with http.post(f"{fleet.infos()[0].url}/v1/completions", json=body | more) as answer:
        assert answer.status == 200, await answer.text()
        told: dict[str, Any] = await answer.json()
        return told


def names(text: str, scope: Scope = BASE, size: int = 16) -> list[int]:
    hasher = BlockHasher(size, "sha256_cbor")
    return [external(digest) for digest in hasher.hashes(encode(text.encode()), scope)]


async def replayed(endpoint: str, start: int) -> list[int]:
    context = zmq.asyncio.Context(io_threads=1)
    try:
        socket = context.socket(zmq.DEALER)
        socket.connect(endpoint)
        await socket.send_multipart((b"", encode_seq(start)))
        seen: list[int] = []
        async with asyncio.timeout(10):
            while True:
                frames = await socket.recv_multipart()
                assert frames[0] == b""
                if frames[2] == REPLAY_END:
                    assert frames == [b"", b"", REPLAY_END, b""]
                    return seen
                seen.append(split_message(frames[1:])[1])
    finally:
        context.destroy(linger=0)


async def test_stored_blocks_carry_the_hashes_of_prompt_and_output(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(**EVENTS)
    async with subscribed(fleet) as subscriber:
        answer = await complete(http, fleet, output_tokens=40)
        text = PROMPT + answer["choices"][0]["text"]
        wanted = names(text)[: (70 + 39) // 16]  # the last token is never computed
        stored = await subscriber.stored(len(wanted))
    assert [name for event in stored for name in event.block_hashes] == wanted
    assert [t for event in stored for t in event.token_ids] == encode(text.encode())[
        : 16 * len(wanted)
    ].tolist()
    parents = [event.parent_block_hash for event in stored]
    assert parents[0] is None
    assert parents[1:] == [event.block_hashes[-1] for event in stored[:-1]]
    assert {(e.medium, e.block_size, e.lora_name) for e in stored} == {("GPU", 16, None)}


async def test_a_prompt_seen_before_publishes_nothing_new(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(**EVENTS)
    async with subscribed(fleet) as subscriber:
        await complete(http, fleet)
        await complete(http, fleet)
        await complete(http, fleet, prompt="mark" * 16)
        first = await subscriber.stored(4)
        second = await subscriber.stored(1)
    assert [e.block_hashes for e in first] == [names(PROMPT)]
    assert [e.block_hashes for e in second] == [names("mark" * 16)]


async def test_adapters_and_salts_name_their_blocks_apart(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(**EVENTS)
    url = fleet.infos()[0].url
    adapter = {"lora_name": "ad1", "lora_path": "/adapters/ad1"}
    async with http.post(f"{url}/v1/load_lora_adapter", json=adapter) as answer:
        assert answer.status == 200
    async with subscribed(fleet) as subscriber:
        await complete(http, fleet, model="ad1", cache_salt="s")
        (event,) = await subscriber.stored(4)
    assert event.block_hashes == names(PROMPT, Scope("ad1", "/adapters/ad1", "s"))
    assert (event.lora_name, event.lora_id) == ("ad1", 1)
    assert event.extra_keys == [("ad1", "s"), ("ad1",), ("ad1",), ("ad1",)]


async def test_blocks_pushed_out_and_a_cleared_cache_are_told(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(**EVENTS, **{"engine.num_blocks": 8, "engine.max_model_len": 128})
    url = fleet.infos()[0].url
    removed: list[object] = []
    async with subscribed(fleet) as subscriber:
        await complete(http, fleet)
        await complete(http, fleet, prompt="else" * 70)
        while not removed:
            batch = (await subscriber.next())[2]
            removed += [e for e in batch.events if isinstance(e, BlockRemoved)]
        assert all(isinstance(e, BlockRemoved) and len(e.block_hashes) == 1 for e in removed)
        assert {e.block_hashes[0] for e in removed if isinstance(e, BlockRemoved)} <= set(
            names(PROMPT)
        )
        async with http.post(f"{url}/reset_prefix_cache") as answer:
            assert (await answer.json()) == {"cleared": True}
        await complete(http, fleet)  # only a step publishes
        cleared = False
        while not cleared:
            batch = (await subscriber.next())[2]
            cleared = any(isinstance(event, AllBlocksCleared) for event in batch.events)


async def test_sequence_numbers_run_from_zero_and_replay_gives_any_tail(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(**EVENTS)
    async with subscribed(fleet) as subscriber:
        for index in range(4):
            await complete(http, fleet, prompt=f"{index:04d}" * 16)
        messages = [await subscriber.next() for _ in range(4)]
    assert [(topic, seq) for topic, seq, _ in messages] == [("kv@0", seq) for seq in range(4)]
    endpoint = fleet.infos()[0].kv_replay
    assert endpoint is not None
    assert await replayed(endpoint, 0) == [0, 1, 2, 3]
    assert await replayed(endpoint, 2) == [2, 3]
    assert await replayed(endpoint, 9) == []


async def test_dropped_batches_leave_a_gap_that_replay_fills(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(**EVENTS)
    url = fleet.infos()[0].url
    async with subscribed(fleet) as subscriber:
        for index, kind in enumerate((None, "drop_events", "clear")):
            if kind is not None:
                async with http.post(f"{url}/headrace/fault", json={"kind": kind}) as answer:
                    assert answer.status == 200
            await complete(http, fleet, prompt=f"{index:04d}" * 16)
        seqs = [(await subscriber.next())[1] for _ in range(2)]
    assert seqs == [0, 2]
    endpoint = fleet.infos()[0].kv_replay
    assert endpoint is not None
    assert await replayed(endpoint, 1) == [1, 2]


async def test_reordered_batches_come_after_their_successor(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(**EVENTS)
    url = fleet.infos()[0].url
    async with subscribed(fleet) as subscriber:
        async with http.post(f"{url}/headrace/fault", json={"kind": "reorder_events"}) as answer:
            assert answer.status == 200
        for index in range(4):
            await complete(http, fleet, prompt=f"{index:04d}" * 16)
        seqs = [(await subscriber.next())[1] for _ in range(4)]
    assert seqs == [1, 0, 3, 2]


async def test_a_new_life_numbers_its_events_from_zero(
    start_fleet: StartFleet,
    http: aiohttp.ClientSession,
    eventually: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    fleet = await start_fleet(**EVENTS)
    url = fleet.infos()[0].url
    await complete(http, fleet)
    before = fleet.engines[0].app
    crash = {"kind": "crash", "restart_after_s": 0.0}
    async with http.post(f"{url}/headrace/fault", json=crash) as answer:
        assert answer.status == 200
    await eventually(lambda: fleet.engines[0].app not in {before, None})
    await eventually(lambda: fleet.engines[0].server is not None)
    async with subscribed(fleet) as subscriber:
        await complete(http, fleet)
        assert (await subscriber.next())[1] == 0


async def test_the_sources_route_tells_where_to_subscribe(
    start_fleet: StartFleet, http: aiohttp.ClientSession
) -> None:
    fleet = await start_fleet(**EVENTS)
    info = fleet.infos()[0]
    async with http.get(f"{info.url}/kv_event_sources") as answer:
        source = (await answer.json())["0"]
    assert (source["endpoint"], source["replay_endpoint"]) == (info.kv_events, info.kv_replay)
    assert source["topic"] == "kv@0"
    silent = await start_fleet()
    async with http.get(f"{silent.infos()[0].url}/kv_event_sources") as answer:
        assert (await answer.json()) == {}
