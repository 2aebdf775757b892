"""Stores to try: two clients of one hub, or of one real Redis server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
from prometheus_client import CollectorRegistry

from headrace.service.clock import RealClock
from headrace.service.store import MemoryHub, MemoryStore, Store
from headrace.service.store_redis import RedisSettings, RedisStore
from headrace.service.telemetry import Telemetry

LIMIT_S = 20.0


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[None]:
    """Run a store, and wait until it is ready."""
    task = asyncio.create_task(store.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            await store.ready()
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def redis_store(url: str, telemetry: Telemetry | None = None, **settings: float) -> RedisStore:
    telemetry = telemetry or Telemetry(CollectorRegistry())
    return RedisStore(
        RedisSettings(url, **settings),  # type: ignore[arg-type]
        RealClock(),
        telemetry,
        Random(1),
    )


@pytest.fixture(params=["memory", "redis"])
async def stores(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Store, Store]]:
    """Two clients of the same store."""
    if request.param == "memory":
        hub = MemoryHub(RealClock())
        yield MemoryStore(hub), MemoryStore(hub)
        return
    url = request.getfixturevalue("redis_url")
    one, two = redis_store(url), redis_store(url)
    async with running(one), running(two):
        yield one, two
