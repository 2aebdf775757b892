from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace.core.endpoint import EndpointView, Health
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.discovery import ListSource, StaticSource


def view(name: str) -> EndpointView:
    return EndpointView(EndpointId(name), f"http://{name}", (ModelName("m"),))


async def test_a_static_source_lists_in_order_of_id_and_never_changes() -> None:
    source = StaticSource([view("b"), view("a")])
    assert [each.endpoint_id for each in source.endpoints()] == ["a", "b"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await source.changed()


async def test_everyone_who_waits_is_woken_by_one_change() -> None:
    source = ListSource()
    async with asyncio.timeout(1), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(source.changed())
        await asyncio.sleep(0)
        source.put(view("a"))


async def test_putting_the_same_again_announces_nothing() -> None:
    source = ListSource()
    source.put(view("a"))
    waiting = asyncio.create_task(source.changed())
    await asyncio.sleep(0)
    source.put(view("a"))
    source.remove(EndpointId("absent"))
    await asyncio.sleep(0)
    assert not waiting.done()
    source.put(replace(view("a"), health=Health.DOWN))
    await asyncio.wait_for(waiting, 1)


async def test_a_removed_endpoint_is_gone_and_announced() -> None:
    source = ListSource()
    source.put(view("a"))
    waiting = asyncio.create_task(source.changed())
    await asyncio.sleep(0)
    source.remove(EndpointId("a"))
    await asyncio.wait_for(waiting, 1)
    assert source.endpoints() == []
    assert source.get(EndpointId("a")) is None
