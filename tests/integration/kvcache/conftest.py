"""A real publisher and a real subscriber over loopback, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count

import pytest

from headrace.core.endpoint import KvEventSource
from kvcache.shell.publisher import EventPublisher, PublisherSettings
from kvcache.shell.subscriber import SubscriberSettings
from tests.support.kv_events import (
    QUICK,
    Engine,
    Eventually,
    StartEngine,
    StartWatch,
    Watch,
    running,
)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def start_engine(stack: AsyncExitStack) -> StartEngine:
    """Start an engine, on addresses the system chooses or on given ones."""
    times = count(1)

    async def start(
        source: KvEventSource | None = None, *, replays: bool = True, **settings: int
    ) -> Engine:
        at = source or KvEventSource("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
        wanted = PublisherSettings(at.events, at.replay, bind=True)
        publisher = EventPublisher(replace(wanted, **settings))  # type: ignore[arg-type]
        publisher.open()
        stack.callback(publisher.close)
        if replays:
            await stack.enter_async_context(running(publisher.serve_replays()))
        return Engine(publisher, times)

    return start


@pytest.fixture
async def start_watch(stack: AsyncExitStack) -> StartWatch:
    """Start a subscriber with an index behind it."""

    async def start(settings: SubscriberSettings = QUICK) -> Watch:
        watch = Watch(settings)
        await stack.enter_async_context(running(watch.subscriber.run()))
        return watch

    return start


@pytest.fixture
def eventually() -> Eventually:
    """Wait until a condition holds, for a bounded time."""

    async def wait(condition: Callable[[], bool]) -> None:
        for _ in range(5_000):
            if condition():
                return
            await asyncio.sleep(0.002)
        raise TimeoutError("the condition never held")

    return wait
