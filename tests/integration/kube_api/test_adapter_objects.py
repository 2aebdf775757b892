"""LoraAdapters of an API server as a list, and what is told of them there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from controller.adapters.telling import Telling
from controller.sight import Sight
from headrace.core.adapter import AdapterSpec
from headrace.core.errors import EngineUnreachable
from headrace.core.ids import ModelName
from headrace.runtime.kube_adapters import AdapterObjects
from headrace.runtime.sidecar.wire import AdapterReply, AdaptersReply
from headrace.service.clock import RealClock
from headrace.service.kube.api import Api
from headrace.service.kube.resource import LORA_ADAPTERS, MODEL_SERVICES, PODS
from headrace.service.kube.writes import Writes
from tests.integration.kube_api.conftest import LIMIT_S, QUICK
from tests.support.fake_kube import FakeKube


def adapter(name: str, base: str = "chat", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"base": base, "source": f"s3://b/{name}", **spec},
    }


def service(name: str = "chat", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": {"lora": {}, **spec}}


@asynccontextmanager
async def following(api: Api, given: tuple[AdapterSpec, ...] = ()) -> AsyncIterator[AdapterObjects]:
    objects = AdapterObjects(api, None, given, QUICK)
    tasks = [asyncio.ensure_future(work()) for _, work in objects.tasks()]
    try:
        async with asyncio.timeout(LIMIT_S):
            await objects.synced()
        yield objects
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until(objects: AdapterObjects, holds: Callable[[dict[str, AdapterSpec]], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds({str(spec.name): spec for spec in objects.specs()}):
            await objects.changed()


async def test_the_list_follows_adapters_and_what_models_are_called(
    kube: FakeKube, api: Api
) -> None:
    kube.put(LORA_ADAPTERS, adapter("poet"))
    kube.put(LORA_ADAPTERS, adapter("lost", base="later"))
    kube.put(MODEL_SERVICES, service(model={"name": "llama"}))
    async with following(api) as objects:
        assert [(spec.name, spec.base) for spec in objects.specs()] == [("poet", "llama")]
        assert {key: claim.reason for key, claim in objects.problems.items()} == {
            ("ns", "lost"): "NoSuchModel"
        }
        kube.put(MODEL_SERVICES, service("later"))
        await until(objects, lambda specs: "lost" in specs)
        assert not objects.problems
        kube.put(LORA_ADAPTERS, adapter("poet", source="s3://b/other"))
        await until(objects, lambda specs: specs["poet"].source == "s3://b/other")
        kube.remove(LORA_ADAPTERS, ("ns", "poet"))
        await until(objects, lambda specs: set(specs) == {"lost"})


async def test_what_the_settings_name_wins_over_objects(kube: FakeKube, api: Api) -> None:
    kube.put(LORA_ADAPTERS, adapter("poet"))
    kube.put(MODEL_SERVICES, service())
    given = AdapterSpec(ModelName("poet"), ModelName("mine"), "file:///poet")
    async with following(api, (given,)) as objects:
        assert objects.specs() == [given]


async def test_the_list_is_all_there_is_only_while_the_server_answers(
    kube: FakeKube, api: Api
) -> None:
    assert not AdapterObjects(api, None, (), QUICK).tells_all, "nothing has been listed yet"
    async with following(api) as objects:
        await kube.watched("loraadapters")
        assert objects.tells_all
        await kube.stop()
        async with asyncio.timeout(LIMIT_S):
            while objects.tells_all:  # noqa: ASYNC110 -- nothing announces it
                await asyncio.sleep(0.005)
        await kube.start()
        async with asyncio.timeout(LIMIT_S):
            while not objects.tells_all:  # noqa: ASYNC110 -- nothing announces it
                await asyncio.sleep(0.005)


class FakeSidecars:
    """What sidecars say, by URL; those that are not in it are silent."""

    def __init__(self) -> None:
        self.said: dict[str, AdaptersReply] = {}
        self.asked = asyncio.Semaphore(0)

    async def adapters(self, url: str) -> AdaptersReply:
        self.asked.release()
        if url not in self.said:
            raise EngineUnreachable(url)
        return self.said[url]


@asynccontextmanager
async def telling(api: Api, sidecars: FakeSidecars) -> AsyncIterator[None]:
    clock = RealClock()
    sight = Sight(api, clock, Random(1), namespace="", changed=_ignore, seen=_ignore)
    tells = Telling(
        api,
        sight,
        Writes(api),
        sidecars,
        namespace="",
        period_s=0.1,
        clock=clock,
        epoch_s=lambda: 1e9,
    )
    works = [work for _, work in (*sight.tasks(), *tells.tasks())]
    tasks = [asyncio.ensure_future(work()) for work in works]
    try:
        async with asyncio.timeout(LIMIT_S):
            await sight.synced()
        tasks.append(asyncio.ensure_future(tells.run()))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _ignore(*_: object) -> None:
    """Take a change that is of no interest."""


async def told(kube: FakeKube, name: str, expected: tuple[str, int]) -> None:
    def now() -> tuple[str, int]:
        status = kube.store.get(LORA_ADAPTERS, ("ns", name)).get("status") or {}
        [condition] = status.get("conditions") or [{"reason": ""}]
        return condition["reason"], status.get("loadedReplicas", -1)

    touched = asyncio.Event()
    kube.store.on_change.append(lambda _: touched.set())
    async with asyncio.timeout(LIMIT_S):
        while now() != expected:
            touched.clear()
            await touched.wait()


async def test_the_status_says_where_an_adapter_is_and_rests(kube: FakeKube, api: Api) -> None:
    made = kube.put(MODEL_SERVICES, service())
    kube.put(LORA_ADAPTERS, adapter("poet"))
    kube.put(LORA_ADAPTERS, adapter("lost", base="nobody"))
    labels = {"app.kubernetes.io/managed-by": "headrace", "headrace.dev/model-service": "chat"}
    pod = {
        "metadata": {
            "name": "chat-1",
            "namespace": "ns",
            "labels": labels,
            "ownerReferences": [{"kind": "ModelService", "uid": made["metadata"]["uid"]}],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.9",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    sidecars = FakeSidecars()
    async with telling(api, sidecars):
        await told(kube, "lost", ("NoSuchModel", 0))
        await told(kube, "poet", ("NoReplica", 0))
        kube.put(PODS, pod)
        await told(kube, "poet", ("OnDemand", 0))
        loaded = AdapterReply("poet", "/cache/poet/1")
        sidecars.said["http://10.0.0.9:8081"] = AdaptersReply((loaded,))
        await told(kube, "poet", ("Loaded", 1))
        del sidecars.said["http://10.0.0.9:8081"]  # it says nothing for a while
        written, sidecars.asked = kube.requests.copy(), asyncio.Semaphore(0)
        async with asyncio.timeout(LIMIT_S):
            for _ in range(4):
                await sidecars.asked.acquire()
        assert kube.requests == written
        await told(kube, "poet", ("Loaded", 1))
