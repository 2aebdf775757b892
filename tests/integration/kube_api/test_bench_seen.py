"""What the controller's benchmark takes for the first thing done about a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bench.controller.seen import Seen
from headrace.service.kube.api import Api
from headrace.service.kube.resource import PODS
from tests.support.fake_kube import FakeKube

LIMIT_S = 10.0
SERVICE = ("ns", "m")
LABELS = {"app.kubernetes.io/managed-by": "headrace", "headrace.dev/model-service": "m"}


def _pod(name: str, ready: bool = False) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    metadata = {"namespace": "ns", "name": name, "labels": LABELS}
    return {"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"conditions": conditions}}


@pytest.fixture
async def seen(kube: FakeKube, api: Api) -> AsyncIterator[Seen]:
    kube.put(PODS, _pod("old", ready=True))
    seen = Seen(api)
    running = [asyncio.create_task(run) for run in seen.tasks()]
    async with asyncio.timeout(LIMIT_S):
        await seen.synced()
        await kube.watched("pods")
        yield seen
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def test_a_pod_that_is_made_is_an_action_and_one_that_becomes_ready_is_none(
    kube: FakeKube, seen: Seen
) -> None:
    made = seen.expect(SERVICE)
    kube.put(PODS, _pod("new"))
    await made
    acted = seen.expect(SERVICE)
    kube.put(PODS, _pod("new", ready=True))
    await seen.until(lambda: seen.ready_pods == 2, LIMIT_S)
    assert not acted.done()
    assert seen.pods == 2


async def test_a_pod_that_is_told_to_go_is_an_action_and_its_end_is_none(
    kube: FakeKube, seen: Seen
) -> None:
    told = seen.expect(SERVICE)
    kube.remove(PODS, ("ns", "old"), now=False)
    await told
    assert seen.pods == 0
    assert not seen.is_settled(0, 0), "it is still there"
    acted = seen.expect(SERVICE)
    kube.remove(PODS, ("ns", "old"))
    await seen.until(lambda: seen.is_settled(0, 0), LIMIT_S)
    assert not acted.done()


async def test_a_pod_replaced_by_one_of_its_name_is_an_action(kube: FakeKube, seen: Seen) -> None:
    acted = seen.expect(SERVICE)
    kube.remove(PODS, ("ns", "old"))
    kube.put(PODS, _pod("old"))
    await acted
