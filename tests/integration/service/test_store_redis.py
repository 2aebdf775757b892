"""Redis goes away in every way it can; nothing waits, nothing breaks, all comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from headrace.core.errors import ConfigError, StoreError
from headrace.service.telemetry import Telemetry
from tests.integration.service.conftest import LIMIT_S, redis_store, running
from tests.support.redis_server import RedisServer

QUICK = {"answer_s": 0.3, "probe_s": 0.2, "retry_first_s": 0.01, "retry_most_s": 0.05}


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 -- the state of another process
            await asyncio.sleep(0.005)


async def test_a_redis_that_restarts_is_found_again_and_subscriptions_hold(
    own_redis: RedisServer,
) -> None:
    telemetry = Telemetry(CollectorRegistry())
    store = redis_store(own_redis.url, telemetry, **QUICK)
    got: list[bytes] = []
    store.subscribe("c", got.append)
    up = telemetry.gauge("headrace_store_up").labels()
    async with running(store):
        assert up.value == 1.0
        own_redis.stop()
        await until(lambda: not store.up)
        assert up.value == 0.0
        store.publish("c", b"lost")
        with pytest.raises(StoreError, match="not connected"):
            await store.get("k")
        connects = telemetry.counter("headrace_store_connects_total")
        await until(lambda: connects.labels("failed").value >= 1)
        own_redis.start()
        async with asyncio.timeout(LIMIT_S):
            await store.ready()
        store.publish("c", b"found")
        await until(lambda: bool(got))
        await store.set("k", b"v", 10.0)
        assert await store.get("k") == b"v"
    assert got == [b"found"]
    assert up.value == 0.0
    assert connects.labels("ok").value == 2
    assert telemetry.counter("headrace_store_dropped_total").labels("down").value == 1


async def test_a_redis_that_hangs_holds_nobody_up_and_counts_as_down(
    own_redis: RedisServer,
) -> None:
    telemetry = Telemetry(CollectorRegistry())
    store = redis_store(own_redis.url, telemetry, queue_messages=10, **QUICK)
    async with running(store):
        assert own_redis.process is not None
        os.kill(own_redis.process.pid, signal.SIGSTOP)
        try:
            started_s = time.monotonic()
            for _ in range(100):
                store.publish("c", b"x")
            assert time.monotonic() - started_s < 0.1
            with pytest.raises(StoreError):
                await store.get("k")
            assert time.monotonic() - started_s < 2.0
            await until(lambda: not store.up)
        finally:
            os.kill(own_redis.process.pid, signal.SIGCONT)
        async with asyncio.timeout(LIMIT_S):
            await store.ready()
        assert await store.get("k") is None
    assert telemetry.counter("headrace_store_dropped_total").labels("full").value == 90


async def test_a_silent_connection_is_found_dead_without_sending_anything(
    own_redis: RedisServer,
) -> None:
    store = redis_store(own_redis.url, None, **QUICK)
    async with running(store):
        assert own_redis.process is not None
        os.kill(own_redis.process.pid, signal.SIGSTOP)
        try:
            await until(lambda: not store.up)
        finally:
            os.kill(own_redis.process.pid, signal.SIGCONT)
        async with asyncio.timeout(LIMIT_S):
            await store.ready()


async def test_an_idle_connection_is_kept(own_redis: RedisServer) -> None:
    telemetry = Telemetry(CollectorRegistry())
    store = redis_store(own_redis.url, telemetry, **(QUICK | {"probe_s": 0.01}))
    async with running(store):
        await asyncio.sleep(0.2)  # twenty probes of silence is the thing tried
        assert store.up
    assert telemetry.counter("headrace_store_connects_total").labels("ok").value == 1


async def test_without_redis_at_the_start_all_is_dropped_until_it_comes(
    own_redis: RedisServer,
) -> None:
    own_redis.stop()
    store = redis_store(own_redis.url, None, **QUICK)
    task = asyncio.create_task(store.run())
    try:
        store.publish("c", b"x")
        with pytest.raises(StoreError):
            await store.set("k", b"v", 1.0)
        with pytest.raises(StoreError):
            await store.scan("k", 1)
        own_redis.start()
        async with asyncio.timeout(LIMIT_S):
            await store.ready()
        assert await store.get("k") is None
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_a_wrong_password_is_an_outage_and_no_crash() -> None:
    server = RedisServer("--requirepass", "right")
    if not server.available:
        pytest.skip(server.missing)
    server.start()
    telemetry = Telemetry(CollectorRegistry())
    try:
        store = redis_store(server.url.replace("://", "://:wrong@"), telemetry, **QUICK)
        task = asyncio.create_task(store.run())
        failed = telemetry.counter("headrace_store_connects_total").labels("failed")
        await until(lambda: failed.value >= 3)
        assert not store.up
        assert not task.done()
        task.cancel()
        await asyncio.wait((task,))
        async with running(redis_store(server.url.replace("://", "://:right@"), None, **QUICK)):
            pass
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["", "http://localhost", "localhost:6379"])
async def test_a_url_that_is_not_of_redis_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="redis_url"):
        redis_store(url)


async def test_refused_commands_are_store_errors(own_redis: RedisServer) -> None:
    store = redis_store(own_redis.url, None, **QUICK)
    async with running(store):
        with pytest.raises(StoreError):
            await store.set("k", b"v", 1e300)
        assert store.up
