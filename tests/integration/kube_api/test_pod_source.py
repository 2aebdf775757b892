"""Pods of an API server as a list of endpoints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headrace.core.endpoint import Health
from headrace.runtime.kube_pods import PodSource
from headrace.runtime.pods import ENDPOINT_ANNOTATION, SERVICE_LABEL
from headrace.service.kube.api import Api
from headrace.service.kube.resource import PODS
from tests.integration.kube_api.conftest import LIMIT_S, QUICK
from tests.support.fake_kube import FakeKube

READY = {
    "phase": "Running",
    "podIP": "10.0.0.1",
    "conditions": [{"type": "ContainersReady", "status": "True"}],
}


def pod(name: str, namespace: str = "ns", said: str = "", service: str = "chat") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {SERVICE_LABEL: service},
            "annotations": {ENDPOINT_ANNOTATION: said or json.dumps({"port": 8000})},
        },
        "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
        "status": READY,
    }


@asynccontextmanager
async def following(
    api: Api, namespace: str | None = None, label_selector: str = SERVICE_LABEL
) -> AsyncIterator[PodSource]:
    source = PodSource(api, namespace, label_selector, QUICK)
    running = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            await source.synced()
        yield source
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(source: PodSource, holds: Callable[[dict[str, Health]], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds({str(v.endpoint_id): v.health for v in source.endpoints()}):
            await source.changed()


async def test_pods_are_endpoints_from_when_they_run_to_when_they_have_ended(
    kube: FakeKube, api: Api
) -> None:
    kube.put(PODS, pod("a"))
    async with following(api) as source:
        await until(source, lambda now: now == {"ns/a": Health.READY})
        kube.put(PODS, {**pod("b", "other"), "status": {"phase": "Pending"}})
        kube.set_status(PODS, ("other", "b"), {**READY, "conditions": []})
        await until(source, lambda now: now.get("other/b") is Health.DOWN)
        kube.set_status(PODS, ("other", "b"), READY)
        await until(source, lambda now: now.get("other/b") is Health.READY)
        kube.remove(PODS, ("ns", "a"), now=False)
        await until(source, lambda now: now.get("ns/a") is Health.DRAINING)
        kube.remove(PODS, ("ns", "a"))
        await until(source, lambda now: now == {"other/b": Health.READY})


async def test_only_pods_of_the_namespace_and_label_are_followed(kube: FakeKube, api: Api) -> None:
    kube.put(PODS, pod("a"))
    kube.put(PODS, pod("b", "other"))
    kube.put(PODS, pod("c", service="code"))
    plain = pod("d")
    plain["metadata"]["labels"] = {}
    kube.put(PODS, plain)
    async with following(api, "ns", f"{SERVICE_LABEL}=chat") as source:
        assert [view.endpoint_id for view in source.endpoints()] == ["ns/a"]
    async with following(api) as source:
        assert [view.endpoint_id for view in source.endpoints()] == ["ns/a", "ns/c", "other/b"]


async def test_the_last_list_stays_while_the_server_is_away_and_is_right_when_it_is_back(
    kube: FakeKube, api: Api
) -> None:
    kube.put(PODS, pod("a"))
    kube.put(PODS, pod("b"))
    async with following(api) as source:
        await kube.watched("pods")
        await kube.stop()
        async with asyncio.timeout(LIMIT_S):
            while not source.away:  # noqa: ASYNC110 -- nothing announces it
                await asyncio.sleep(0.005)
        assert len(source.endpoints()) == 2
        kube.remove(PODS, ("ns", "a"))
        kube.put(PODS, pod("c"))
        kube.compact()
        assert len(source.endpoints()) == 2
        await kube.start()
        await until(source, lambda now: set(now) == {"ns/b", "ns/c"})
        assert not source.away


async def test_a_bad_annotation_is_told_once_and_gone_when_it_is_put_right(
    kube: FakeKube, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    kube.put(PODS, pod("a", said='{"port": -1}'))
    kube.put(PODS, pod("b"))
    async with following(api) as source:
        kube.set_status(PODS, ("ns", "a"), {"podIP": "10.0.0.2"})
        kube.set_status(PODS, ("ns", "b"), {"podIP": "10.0.0.3"})
        async with asyncio.timeout(LIMIT_S):
            while source.endpoints()[0].url != "http://10.0.0.3:8000":
                await source.changed()
        assert len(source.endpoints()) == 1
        assert "$.port" in source.problems["ns", "a"]
        assert capsys.readouterr().out.count("pod_unusable") == 1
        kube.put(PODS, pod("a"))
        await until(source, lambda now: len(now) == 2)
        assert not source.problems


async def test_what_changes_nothing_for_a_gateway_wakes_nobody(kube: FakeKube, api: Api) -> None:
    kube.put(PODS, pod("a"))
    async with following(api) as source:
        await kube.watched("pods")
        before = source.endpoints()
        waiting = asyncio.create_task(source.changed())
        kube.set_status(PODS, ("ns", "a"), {"startTime": "2026-11-24T12:00:00Z"})
        kube.put(PODS, pod("unready") | {"status": {"phase": "Pending"}})
        kube.put(PODS, pod("z"))
        async with asyncio.timeout(LIMIT_S):
            await waiting
        assert source.endpoints()[0] is before[0]
        assert [view.endpoint_id for view in source.endpoints()] == ["ns/a", "ns/z"]
