"""Simulated engines over loopback, in this process, on ports the system chooses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest

from headrace.service.clock import RealClock
from headrace.service.settings import load_settings
from headrace.simulator.config import SimulatorSettings
from headrace.simulator.http.fleet import Fleet

StartFleet = Callable[..., Awaitable[Fleet]]


@pytest.fixture
async def start_fleet() -> AsyncIterator[StartFleet]:
    """Start a fleet with settings given by dotted name (``__`` for a dot)."""
    async with AsyncExitStack() as stack:

        async def start(**overrides: object) -> Fleet:
            values: dict[str, object] = {"time_scale": 20.0, "engine.max_model_len": 8192}
            values |= {name.replace("__", "."): value for name, value in overrides.items()}
            settings = load_settings(SimulatorSettings, None, values)
            return await stack.enter_async_context(Fleet(settings, RealClock()))

        yield start


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without limits of its own."""
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait until a condition holds, for a bounded time."""

    async def wait(condition: Callable[[], bool]) -> None:
        for _ in range(5_000):
            if condition():
                return
            await asyncio.sleep(0.002)
        raise TimeoutError("the condition never held")

    return wait
