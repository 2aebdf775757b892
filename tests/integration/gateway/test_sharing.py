"""Two gateways over the same endpoints, and a real Redis between them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from headrace.core.ids import EndpointId, RequestId
from router.replica_wire import Codec
from router.replicas import Outbox, SharingLimits
from router.reserve import ReplicaId, Reserve
from tests.integration.gateway.conftest import (
    DONE,
    LIMIT_S,
    STREAM,
    USAGE_EVENT,
    Bench,
    Script,
    Seen,
    Start,
    begin_stream,
    end_stream,
    send,
    token,
    well,
)
from tests.support.redis_server import RedisServer

E0, E1 = EndpointId("e0"), EndpointId("e1")


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 -- what is waited for comes over the network
            await asyncio.sleep(0.002)


async def shows(bench: Bench, line: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not await bench.metric(line):  # noqa: ASYNC110 -- metrics are only ever asked for
            await asyncio.sleep(0.01)


def slow(go_on: asyncio.Event) -> Script:
    """Send a first token at once, and the rest when told to go on."""

    async def script(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, token("a"))
        await go_on.wait()
        await send(writer, token("", "stop"), USAGE_EVENT, DONE)
        await end_stream(writer)

    return script


async def pair(start: Start, url: str, engines: int = 1) -> tuple[Bench, Bench]:
    """Start two gateways that share; their engines have the same names."""
    quick = {"redis_url": url, "share_ms": 1, "heartbeat_ms": 10, "lost_after_s": 0.5}
    quick |= {"answer_s": 0.3, "retry_most_s": 0.05}
    one = await start(engines, sharing={**quick, "replica": "one"})
    two = await start(engines, sharing={**quick, "replica": "two"})
    for bench, other in ((one, "two"), (two, "one")):
        await shows(bench, f'headrace_router_sharing_lag_seconds{{replica="{other}"')
    return one, two


async def test_each_gateway_counts_the_other_one_s_requests(
    start: Start, own_redis: RedisServer
) -> None:
    one, two = await pair(start, own_redis.url, engines=2)
    go_on = asyncio.Event()

    for engine in one.engines:
        engine.script = slow(go_on)
    client = await one.client()
    await client.ask(STREAM)
    await client.head()
    busy = E0 if one.router.inflight(E0) else E1
    await until(lambda: two.router.inflight(busy) == 1)
    assert (await two.ask(STREAM)).status == 200
    (idle,) = [engine for engine in two.engines if engine.name != busy]
    assert len(idle.seen) == 1, "least-requests knows that the other engine is busy"
    go_on.set()
    while await client.piece():
        pass
    await until(lambda: two.router.inflight(busy) == 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_is_called_back_from_where_another_gateway_s_came_before(
    start: Start, own_redis: RedisServer, *, stream: bool
) -> None:
    one = await alone(start, own_redis.url)

    async def never(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if stream:
            await begin_stream(writer)  # engines send the head of a stream at once
        await asyncio.Event().wait()

    for engine in one.engines:
        engine.script = never
    client = await one.client()
    await client.ask({**STREAM, "stream": stream}, x_request_id="mine")
    await until(lambda: any(engine.seen for engine in one.engines))
    first, second = sorted(one.engines, key=lambda engine: not engine.seen)
    second.script = well
    await tell_of_an_earlier_one(own_redis.url, EndpointId(first.name))
    assert (await client.reply()).status == 200
    async with asyncio.timeout(LIMIT_S):
        await first.left.wait()
    assert [seen.body for seen in second.seen] == [seen.body for seen in first.seen]
    assert await one.metric('headrace_retries_total{reason="recalled"} 1.0')
    assert one.router.inflight(EndpointId(first.name)) == 1, "the other gateway's"
    explained = json.loads((await one.get("/headrace/v1/decisions/mine")).body)
    chosen = [made["endpoint_id"] for made in explained["attempts"]]
    assert chosen == [first.name, second.name]


async def test_a_request_that_has_had_its_first_token_is_not_called_back(
    start: Start, own_redis: RedisServer
) -> None:
    one = await alone(start, own_redis.url)
    go_on = asyncio.Event()

    for engine in one.engines:
        engine.script = slow(go_on)
    client = await one.client()
    await client.ask(STREAM)
    await client.head()
    (first,) = [engine for engine in one.engines if engine.seen]
    await tell_of_an_earlier_one(own_redis.url, EndpointId(first.name))
    await until(lambda: one.router.inflight(EndpointId(first.name)) == 2)
    go_on.set()
    while await client.piece():
        pass
    assert [len(engine.seen) for engine in one.engines if engine is not first] == [0]
    assert not await one.metric('headrace_retries_total{reason="recalled"}')


async def alone(start: Start, url: str) -> Bench:
    """Start one gateway that shares, over two engines."""
    sharing = {"redis_url": url, "replica": "one", "heartbeat_ms": 10}
    one = await start(2, policy="expected-ttft", sharing=sharing)
    await shows(one, "headrace_store_up 1.0")
    return one


async def tell_of_an_earlier_one(url: str, endpoint_id: EndpointId) -> None:
    """Publish what a gateway would that sent a long prompt there half a second ago."""
    outbox = Outbox(ReplicaId("other"), 1, SharingLimits())
    outbox.dispatched(Reserve(RequestId("theirs"), endpoint_id, 50_000.0, 50_000.0, 0.0))
    (message,) = outbox.flush(0.5)
    async with Redis.from_url(url) as redis:
        await redis.publish("headrace:reserves", Codec().encode(message))


async def test_a_gateway_that_ends_leaves_nothing_in_the_other_one_s_books(
    start: Start, own_redis: RedisServer
) -> None:
    one, two = await pair(start, own_redis.url)

    async def never(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, token("a"))
        await asyncio.Event().wait()

    one.engines[0].script = never
    client = await one.client()
    await client.ask(STREAM)
    await client.head()
    await until(lambda: two.router.inflight(E0) == 1)
    one.task.cancel()
    await until(lambda: two.router.inflight(E0) == 0)


async def test_without_redis_traffic_flows_and_the_metric_says_so(
    start: Start, own_redis: RedisServer
) -> None:
    one, two = await pair(start, own_redis.url)
    own_redis.stop()
    await shows(one, "headrace_store_up 0.0")
    for bench in (one, two):
        assert (await bench.ask(STREAM)).status == 200
    own_redis.start()
    await shows(one, "headrace_store_up 1.0")
    assert (await one.ask(STREAM)).status == 200
    await until(lambda: two.router.inflight(E0) == 0)
