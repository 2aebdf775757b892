from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from headrace.service.clock import RealClock
from headrace.service.http import HttpLimits, make_session


async def test_every_limit_is_set_on_the_session() -> None:
    limits = HttpLimits(
        connections=7, connections_per_host=3, connect_s=1.5, read_s=2.5, total_s=3.5
    )
    async with make_session(limits) as session:
        connector = session.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        assert (connector.limit, connector.limit_per_host) == (7, 3)
        timeout = session.timeout
        assert (timeout.connect, timeout.sock_read, timeout.total) == (1.5, 2.5, 3.5)
        assert session.trust_env is False


async def test_a_silent_server_is_given_up() -> None:
    release = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", silent)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with make_session(HttpLimits(read_s=0.05, total_s=5.0)) as session:
            with pytest.raises(asyncio.TimeoutError):
                await session.get(f"http://{host}:{port}/")
    finally:
        release.set()
        await runner.cleanup()


async def test_the_real_clock_goes_forward() -> None:
    clock = RealClock()
    before_s = clock.now_s()
    await clock.sleep(0.001)
    assert clock.now_s() - before_s >= 0.001
