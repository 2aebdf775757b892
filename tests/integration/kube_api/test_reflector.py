"""A copy stays right whatever the API server and the network do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from headrace.service.kube.connect import Api
from headrace.service.kube.reflector import ReflectorLimits
from headrace.service.kube.resource import CONFIG_MAPS, Key
from tests.integration.kube_api.conftest import LIMIT_S, QUICK, config_map, following, until
from tests.support.fake_kube import FakeKube


async def counted(count: Callable[[], int], least: int) -> None:
    """Wait for something that nothing announces."""
    async with asyncio.timeout(LIMIT_S):
        while count() < least:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_watch_that_broke_goes_on_where_it_was(kube: FakeKube, api: Api) -> None:
    kube.put(CONFIG_MAPS, config_map("a"))
    async with following(api) as reflector:
        await until(reflector, "a")
        await kube.watched("configmaps")
        for name in "bcd":
            kube.break_watches()
            kube.put(CONFIG_MAPS, config_map(name))
        await until(reflector, *"abcd")
        assert reflector.counts.lists == 1
        assert reflector.counts.watches > 1


async def test_what_was_forgotten_is_listed_again(kube: FakeKube, api: Api) -> None:
    for name in "ab":
        kube.put(CONFIG_MAPS, config_map(name))
    told: list[Key] = []
    async with following(api, on_change=told.append) as reflector:
        await until(reflector, *"ab")
        await kube.watched("configmaps")
        told.clear()
        await kube.stop()
        kube.put(CONFIG_MAPS, config_map("c"))
        kube.remove(CONFIG_MAPS, ("ns", "a"))
        kube.compact()
        kube.put(CONFIG_MAPS, config_map("d"))
        await kube.start()
        await until(reflector, *"bcd")
        assert reflector.counts.lists == 2
        assert sorted(told) == [("ns", "a"), ("ns", "c"), ("ns", "d")]  # b is as it was


async def test_the_last_copy_stays_while_the_server_is_away(kube: FakeKube, api: Api) -> None:
    kube.put(CONFIG_MAPS, config_map("a"))
    async with following(api) as reflector:
        await until(reflector, "a")
        await kube.watched("configmaps")
        await kube.stop()
        await counted(lambda: reflector.counts.failures, 5)
        assert reflector.away
        assert set(reflector.items) == {("ns", "a")}
        kube.put(CONFIG_MAPS, config_map("b"))
        await kube.start()
        await until(reflector, *"ab")
        assert not reflector.away
        assert reflector.counts.lists == 1


async def test_a_connection_that_is_half_open_is_given_up(kube: FakeKube, api: Api) -> None:
    limits = ReflectorLimits(retry=QUICK.retry, read_s=0.1)
    kube.put(CONFIG_MAPS, config_map("a"))
    async with following(api, limits) as reflector:
        await until(reflector, "a")
        await kube.watched("configmaps")
        kube.silence_watches()
        kube.put(CONFIG_MAPS, config_map("b"))
        await counted(lambda: reflector.counts.watches, 3)
        assert set(reflector.items) == {("ns", "a")}
        kube.silence_watches(False)
        await until(reflector, *"ab")
        assert reflector.counts.lists == 1


async def test_bookmarks_move_a_watch_on_past_what_it_does_not_see(
    kube: FakeKube, api: Api
) -> None:
    async with following(api, namespace="ns") as reflector:
        await kube.watched("configmaps")
        for number in range(3):
            kube.put(CONFIG_MAPS, config_map(f"x{number}", "elsewhere"))
        kube.bookmark()
        await counted(lambda: reflector.counts.events, 1)
        kube.compact()  # all that the watch has not seen was elsewhere
        kube.break_watches()
        kube.put(CONFIG_MAPS, config_map("a"))
        await until(reflector, "a")
        assert reflector.counts.lists == 1


async def test_a_list_that_fails_midway_is_begun_anew(kube: FakeKube, api: Api) -> None:
    for name in "abcde":
        kube.put(CONFIG_MAPS, config_map(name))
    kube.fail(1, 410, "Expired", method="GET", after=1)
    kube.fail(2, 500, method="GET", after=2)
    async with following(api, ReflectorLimits(retry=QUICK.retry, page=2)) as reflector:
        await until(reflector, *"abcde")
        assert reflector.counts.lists == 1
        assert reflector.counts.failures == 3


async def test_watches_that_end_at_once_are_not_begun_in_a_hurry(kube: FakeKube, api: Api) -> None:
    kube.watch_s = 0.0
    async with following(api) as reflector:
        await asyncio.wait_for(reflector.synced(), LIMIT_S)
        before = reflector.counts.watches
        await asyncio.sleep(0.2)
        assert reflector.counts.watches - before <= 0.2 / (QUICK.retry.first_s / 2) + 1
        kube.put(CONFIG_MAPS, config_map("a"))
        await until(reflector, "a")


async def test_an_object_made_again_under_its_name_is_another(kube: FakeKube, api: Api) -> None:
    kube.put(CONFIG_MAPS, config_map("a"))
    async with following(api) as reflector:
        await until(reflector, "a")
        first = reflector.items["ns", "a"]["metadata"]["uid"]
        kube.remove(CONFIG_MAPS, ("ns", "a"))
        kube.put(CONFIG_MAPS, config_map("a"))
        async with asyncio.timeout(LIMIT_S):
            while "a" not in {n for _, n in reflector.items} or (
                reflector.items["ns", "a"]["metadata"]["uid"] == first
            ):
                await reflector.changed()


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_faults_the_copy_is_what_is_there(
    kube: FakeKube, api: Api, seed: int
) -> None:
    rng = Random(seed)
    told: set[Key] = set()
    limits = ReflectorLimits(retry=QUICK.retry, page=3, read_s=0.3)
    async with following(api, limits, told.add) as reflector:
        for _ in range(150):
            key = ("ns", f"c{rng.randrange(12)}")
            act = rng.random()
            if act < 0.55:
                kube.put(CONFIG_MAPS, config_map(key[1], value=str(rng.random())))
            elif act < 0.75 and key in kube.store.all(CONFIG_MAPS):
                kube.remove(CONFIG_MAPS, key)
            elif act < 0.82:
                kube.break_watches()
            elif act < 0.85:
                kube.compact()
            elif act < 0.90:
                kube.fail(rng.randrange(1, 3), rng.choice([410, 429, 500]), method="GET")
            elif act < 0.93:
                await kube.stop()
                await kube.start()
            else:
                await asyncio.sleep(rng.random() * 0.02)
        there = kube.store.all(CONFIG_MAPS)
        async with asyncio.timeout(LIMIT_S):
            while dict(reflector.items) != there:
                await reflector.changed()
        assert told >= set(there)
