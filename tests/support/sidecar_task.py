"""A sidecar in a task of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from headrace.runtime.sidecar.config import RuntimeSettings
from headrace.runtime.sidecar.process import run_sidecar
from headrace.service.settings import load_settings

LIMIT_S = 30.0


@asynccontextmanager
async def serving(values: Mapping[str, object]) -> AsyncIterator[str]:
    """Run a sidecar with settings by dotted name, on a free port; yield its URL."""
    told = {"host": "127.0.0.1", "port": 0, **values}
    settings = load_settings(RuntimeSettings, None, told)
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    task = asyncio.create_task(run_sidecar(settings, ready=url.set_result, stop=stop))
    await asyncio.wait((url, task), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield url.result()
    finally:
        stop.set()
        async with asyncio.timeout(LIMIT_S):
            await task


async def until(look: Callable[[], Awaitable[bool]], *, wanted: bool = True) -> None:
    """Look at a process until it is as wanted; it announces nothing."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            if await look() is wanted:
                return
            await asyncio.sleep(0.02)
