"""Writes keep to their rate, and events never hold anybody up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace.service.kube.connect import Api
from headrace.service.kube.errors import KubeThrottled
from headrace.service.kube.event_log import EventLimits
from headrace.service.kube.events import Recorder
from headrace.service.kube.resource import CONFIG_MAPS, EVENTS, MODEL_SERVICES, NAMESPACES
from headrace.service.kube.writes import LATE_S, Writes
from tests.integration.kube_api.conftest import LIMIT_S, config_map
from tests.support.fake_kube import FakeKube


class StillClock:
    """Time passes only in sleeps."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.slept: list[float] = []

    def now_s(self) -> float:
        return self.at_s

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        await asyncio.sleep(0)


async def events(kube: FakeKube, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(LIMIT_S):
        while len(kube.store.all(EVENTS)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return list(kube.store.all(EVENTS).values())


async def test_writes_beyond_the_burst_take_turns_and_reads_do_not(
    kube: FakeKube, api: Api
) -> None:
    clock = StillClock()
    writes = Writes(api, qps=10, burst=2, most_wait_s=0.25, clock=clock)
    for name in "abcd":
        await writes.create(CONFIG_MAPS, config_map(name))
        await api.get(CONFIG_MAPS, "ns", name)
    assert clock.slept == pytest.approx([0.1, 0.2])
    with pytest.raises(KubeThrottled) as caught:
        await writes.create(CONFIG_MAPS, config_map("e"))
    assert caught.value.retry_safe
    assert api.writes == 4
    clock.at_s = 10.0
    await writes.create(CONFIG_MAPS, config_map("e"))


async def test_kinds_without_namespaces_have_paths_without(kube: FakeKube, api: Api) -> None:
    writes = Writes(api)
    made = await writes.apply(NAMESPACES, {"metadata": {"name": "n"}})
    assert "namespace" not in made["metadata"]
    assert await writes.delete(NAMESPACES, "", "n")


async def test_an_object_read_can_be_applied_again(kube: FakeKube, api: Api) -> None:
    """What nobody may apply (``managedFields``) is taken out of it."""
    writes = Writes(api)
    read = await writes.apply(CONFIG_MAPS, config_map("a"))
    read["metadata"]["managedFields"] = [{"manager": "x"}]
    await writes.apply(CONFIG_MAPS, read)


async def test_an_event_waits_for_the_server_and_is_told_then(kube: FakeKube, api: Api) -> None:
    obj = kube.put(CONFIG_MAPS, config_map("a"))
    kube.fail(1, 500, plural="events")
    clock = StillClock()
    recorder = Recorder(Writes(api), clock=clock)
    running = asyncio.create_task(recorder.run())
    try:
        recorder.event(obj, "Normal", "Done", "ok")
        (event,) = await events(kube, 1)
        assert event["note"] == "ok"
        assert event["metadata"]["namespace"] == "ns"
        assert recorder.dropped == 0
    finally:
        running.cancel()


async def test_an_event_that_is_refused_is_dropped_and_the_next_told(
    kube: FakeKube, api: Api
) -> None:
    obj = kube.put(CONFIG_MAPS, config_map("a"))
    kube.fail(1, 403, "Forbidden", plural="events")
    recorder = Recorder(Writes(api))
    running = asyncio.create_task(recorder.run())
    try:
        recorder.event(obj, "Normal", "First", "x")
        recorder.event(obj, "Normal", "Second", "é" * 2_000)
        (event,) = await events(kube, 1)
        assert event["reason"] == "Second"
        assert len(event["note"].encode()) <= 1_024
        assert recorder.dropped == 1
    finally:
        running.cancel()


async def test_an_event_that_the_server_forgot_is_told_anew(kube: FakeKube, api: Api) -> None:
    obj = kube.put(CONFIG_MAPS, config_map("a"))
    recorder = Recorder(Writes(api), limits=EventLimits(repeat_s=0.0))
    running = asyncio.create_task(recorder.run())
    try:
        recorder.event(obj, "Normal", "Done", "ok")
        (first,) = await events(kube, 1)
        kube.remove(EVENTS, ("ns", first["metadata"]["name"]))
        recorder.event(obj, "Normal", "Done", "ok")
        (second,) = await events(kube, 1)
        assert second["metadata"]["name"] != first["metadata"]["name"]
        assert "series" not in second
    finally:
        running.cancel()


async def test_statuses_give_way_to_all_else_but_not_for_ever(kube: FakeKube, api: Api) -> None:
    class Ticking(StillClock):
        async def sleep(self, delay_s: float) -> None:
            await super().sleep(delay_s)
            self.at_s += delay_s

    clock = Ticking()
    obj = kube.put(MODEL_SERVICES, {"metadata": {"namespace": "ns", "name": "m"}, "spec": {}})
    writes = Writes(api, qps=1, burst=40, most_wait_s=30.0, clock=clock)
    for number in range(45):
        await writes.create(CONFIG_MAPS, config_map(f"c{number}"))
    assert clock.at_s == pytest.approx(5.0)
    await writes.apply_status(MODEL_SERVICES, {**obj, "status": {"replicas": 1}})
    assert clock.at_s == pytest.approx(5.0 + LATE_S), "half the burst was not there again"
    before_s = clock.at_s
    await writes.create(CONFIG_MAPS, config_map("d"))
    assert clock.at_s == before_s
