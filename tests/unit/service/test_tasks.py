from __future__ import annotations

import asyncio

import pytest

from headrace.service.tasks import Restart, Tasks


class QuickClock:
    """Virtual seconds: sleeping takes none, and is written down."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        self.time_s += delay_s
        await asyncio.sleep(0)


async def test_leaving_the_scope_stops_every_task() -> None:
    stopped = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with Tasks() as tasks:
        tasks.start("forever", forever)
        assert tasks.names() == ["forever"]
        await asyncio.sleep(0)
    assert stopped.is_set()
    assert tasks.names() == []


async def test_a_failing_task_is_restarted_with_a_bounded_doubling_wait() -> None:
    clock, runs, well = QuickClock(), 0, asyncio.Event()

    async def shaky() -> None:
        nonlocal runs
        runs += 1
        if runs <= 4:
            raise RuntimeError("no")
        well.set()

    async with Tasks(clock) as tasks:
        tasks.start("shaky", shaky, restart=Restart(limit=5, first_s=1.0, most_s=3.0))
        async with asyncio.timeout(5):
            await well.wait()
    assert clock.slept_s == [1.0, 2.0, 3.0, 3.0]
    assert tasks.failures == 4


async def test_a_task_out_of_restarts_ends_the_scope_with_its_error() -> None:
    async def broken() -> None:
        raise RuntimeError("no")

    tasks = Tasks(QuickClock())

    async def scope() -> None:
        async with tasks:
            tasks.start("broken", broken, restart=Restart(limit=2))
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as raised:
        await scope()
    assert raised.group_contains(RuntimeError, match="no")
    assert tasks.failures == 3


async def test_failures_long_ago_are_forgiven() -> None:
    clock, runs, well = QuickClock(), 0, asyncio.Event()

    async def rarely() -> None:
        nonlocal runs
        runs += 1
        clock.time_s += 100.0
        if runs <= 5:
            raise RuntimeError("no")
        well.set()

    async with Tasks(clock) as tasks:
        tasks.start("rarely", rarely, restart=Restart(limit=1, forgive_s=60.0))
        async with asyncio.timeout(5):
            await well.wait()
    assert runs == 6


async def test_a_name_is_given_once() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    async with Tasks() as tasks:
        tasks.start("one", wait)
        with pytest.raises(ValueError, match="already running"):
            tasks.start("one", wait)


async def test_an_error_of_the_body_stops_the_tasks_too() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    tasks = Tasks()

    async def scope() -> None:
        async with tasks:
            tasks.start("one", wait)
            raise KeyError("body")

    with pytest.raises(ExceptionGroup):
        await scope()
    assert tasks.names() == []
