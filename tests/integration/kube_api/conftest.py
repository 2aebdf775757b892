"""A fake API server, and what keeps a copy of its objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from headrace.service.kube.backoff import Backoff
from headrace.service.kube.connect import Api
from headrace.service.kube.reflector import Reflector, ReflectorLimits
from headrace.service.kube.resource import CONFIG_MAPS, Key
from tests.support.fake_kube import FakeKube

LIMIT_S = 10.0
QUICK = ReflectorLimits(retry=Backoff(first_s=0.005, most_s=0.02))


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with FakeKube() as kube:
        yield kube


@pytest.fixture
async def api(kube: FakeKube) -> AsyncIterator[Api]:
    async with kube.client() as api:
        yield api


@asynccontextmanager
async def following(
    api: Api,
    limits: ReflectorLimits = QUICK,
    on_change: Callable[[Key], None] | None = None,
    **which: Any,
) -> AsyncIterator[Reflector]:
    """Keep a copy of the config maps while inside."""
    reflector = Reflector(
        api, CONFIG_MAPS, limits=limits, on_change=on_change, rng=Random(1), **which
    )
    running = asyncio.create_task(reflector.run())
    try:
        yield reflector
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(reflector: Reflector, *names: str) -> None:
    """Wait until exactly these are there."""
    async with asyncio.timeout(LIMIT_S):
        while {name for _, name in reflector.items} != set(names):
            await reflector.changed()


def config_map(name: str, namespace: str = "ns", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "data": data}
