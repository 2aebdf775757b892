"""What we rely on of an API server, and what the fake one must do alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headrace.service.kube.connect import served
from headrace.service.kube.errors import (
    KubeConflict,
    KubeExists,
    KubeNotFound,
    KubeRefused,
)
from headrace.service.kube.events import Recorder
from headrace.service.kube.reflector import Reflector, ReflectorLimits
from headrace.service.kube.resource import (
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    RAY_CLUSTERS,
    Key,
    Resource,
    version_of,
)
from tests.contract.kube_api.conftest import WIDGETS, Place

LIMIT_S = 20.0


def widget(place: Place, name: str = "w", **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": place.namespace, **fields.pop("metadata", {})}
    return {"metadata": metadata, **fields}


def config_map(place: Place, name: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": place.namespace, "labels": labels}
    return {"metadata": metadata, "data": {"key": "1"}}


async def until(reflector: Reflector, true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():
            await reflector.changed()


async def gone(place: Place, resource: Resource, name: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await place.api.get(resource, place.namespace, name)
            except KubeNotFound:
                return
            await asyncio.sleep(0.05)


async def test_applying_the_same_again_changes_nothing(place: Place) -> None:
    wanted = widget(place, spec={"size": 3, "parts": ["a", "b"]})
    first = await place.writes.apply(WIDGETS, wanted)
    again = await place.writes.apply(WIDGETS, wanted)
    assert version_of(again) == version_of(first)
    assert again["spec"] == wanted["spec"]


async def test_what_is_applied_no_more_goes_and_what_others_set_stays(place: Place) -> None:
    labels = {"labels": {"ours": "1", "old": "1"}}
    await place.writes.apply(WIDGETS, widget(place, metadata=labels, spec={"a": 1, "b": {"c": 2}}))
    theirs = widget(place, metadata={"labels": {"theirs": "1"}}, spec={"d": 4})
    await place.others.apply(WIDGETS, theirs)
    labels = {"labels": {"ours": "2"}}
    left = await place.writes.apply(WIDGETS, widget(place, metadata=labels, spec={"a": 1}))
    assert left["metadata"]["labels"] == {"ours": "2", "theirs": "1"}
    assert left["spec"] == {"a": 1, "d": 4}


async def test_a_generation_counts_changes_of_the_spec_only(place: Place) -> None:
    made = await place.writes.create(WIDGETS, widget(place, spec={"a": 1}, status={"not": "yet"}))
    assert made["metadata"]["generation"] == 1
    assert "status" not in made
    labelled = await place.writes.patch(
        WIDGETS, place.namespace, "w", {"metadata": {"labels": {"a": "b"}}, "status": {"x": "y"}}
    )
    assert labelled["metadata"]["generation"] == 1
    assert "status" not in labelled
    told = await place.writes.apply_status(
        WIDGETS, widget(place, spec={"a": 9}, status={"phase": "Ready"})
    )
    assert (told["metadata"]["generation"], told["spec"]) == (1, {"a": 1})
    assert told["status"] == {"phase": "Ready"}
    changed = await place.writes.patch(WIDGETS, place.namespace, "w", {"spec": {"a": 2}})
    assert changed["metadata"]["generation"] == 2
    assert changed["status"] == {"phase": "Ready"}


async def test_conditions_of_several_managers_are_merged_by_type(place: Place) -> None:
    await place.writes.create(WIDGETS, widget(place))

    def condition(kind: str, status: str) -> dict[str, Any]:
        return {"conditions": [{"type": kind, "status": status}]}

    await place.writes.apply_status(WIDGETS, widget(place, status=condition("Ready", "False")))
    await place.others.apply_status(WIDGETS, widget(place, status=condition("Seen", "True")))
    told = await place.writes.apply_status(
        WIDGETS, widget(place, status=condition("Ready", "True"))
    )
    assert {c["type"]: c["status"] for c in told["status"]["conditions"]} == {
        "Ready": "True",
        "Seen": "True",
    }


async def test_a_status_of_nothing_is_not_found(place: Place) -> None:
    with pytest.raises(KubeNotFound, match="w"):
        await place.writes.apply_status(WIDGETS, widget(place, status={"phase": "Ready"}))


async def test_a_second_of_the_same_name_exists(place: Place) -> None:
    await place.writes.create(CONFIG_MAPS, config_map(place, "c"))
    with pytest.raises(KubeExists, match="already exists"):
        await place.writes.create(CONFIG_MAPS, config_map(place, "c"))


async def test_of_two_updates_of_one_version_one_succeeds(place: Place) -> None:
    made = await place.writes.create(
        LEASES,
        {"metadata": {"name": "l", "namespace": place.namespace}, "spec": {"holderIdentity": "a"}},
    )
    updates = [
        place.writes.update(LEASES, {**made, "spec": {"holderIdentity": who}}) for who in "bc"
    ]
    results = await asyncio.gather(*updates, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["KubeConflict", "dict"]


async def test_only_the_object_that_was_meant_is_deleted(place: Place) -> None:
    made = await place.writes.create(CONFIG_MAPS, config_map(place, "c"))
    with pytest.raises(KubeConflict):
        await place.writes.delete(CONFIG_MAPS, place.namespace, "c", uid="another")
    uid = made["metadata"]["uid"]
    assert await place.writes.delete(CONFIG_MAPS, place.namespace, "c", uid=uid)
    assert not await place.writes.delete(CONFIG_MAPS, place.namespace, "c", uid=uid)


async def test_an_object_with_finalizers_goes_with_the_last_of_them(place: Place) -> None:
    made = await place.writes.create(
        WIDGETS, widget(place, metadata={"finalizers": ["headrace.dev/a"]})
    )
    assert await place.writes.delete(WIDGETS, place.namespace, "w")
    marked = await place.api.get(WIDGETS, place.namespace, "w")
    assert "deletionTimestamp" in marked["metadata"]
    with pytest.raises(KubeConflict):
        await place.writes.set_finalizers(WIDGETS, made, [])
    with pytest.raises(KubeRefused, match="finalizers"):
        await place.writes.set_finalizers(WIDGETS, marked, ["headrace.dev/a", "headrace.dev/b"])
    await place.writes.set_finalizers(WIDGETS, marked, [])
    with pytest.raises(KubeNotFound):
        await place.api.get(WIDGETS, place.namespace, "w")


async def test_what_an_object_owns_goes_after_it(place: Place) -> None:
    owner = await place.writes.create(CONFIG_MAPS, config_map(place, "w"))
    owned = config_map(place, "c")
    owned["metadata"]["ownerReferences"] = [
        {
            "apiVersion": CONFIG_MAPS.api_version,
            "kind": CONFIG_MAPS.kind,
            "name": "w",
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
    ]
    await place.writes.create(CONFIG_MAPS, owned)
    await place.writes.delete(CONFIG_MAPS, place.namespace, "w")
    await gone(place, CONFIG_MAPS, "c")


async def test_a_kind_that_nobody_defined_is_not_served(place: Place) -> None:
    if await served(place.api, RAY_CLUSTERS):  # the fake has it, and some clusters do
        assert place.api.calls["list", "rayclusters.ray.io"] == 1
    assert await served(place.api, WIDGETS)
    assert not await served(place.api, Resource("nobody.headrace.dev", "v1", "things", "Thing"))


async def test_a_copy_is_paged_then_follows_what_its_selector_selects(place: Place) -> None:
    for number in range(7):
        await place.writes.create(CONFIG_MAPS, config_map(place, f"c{number}", app="a"))
    await place.writes.create(CONFIG_MAPS, config_map(place, "other", app="b"))
    told: list[Key] = []
    reflector = Reflector(
        place.api,
        CONFIG_MAPS,
        namespace=place.namespace,
        label_selector="app=a",
        on_change=told.append,
        limits=ReflectorLimits(page=3),
    )
    running = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            await reflector.synced()
        assert sorted(name for _, name in reflector.items) == [f"c{n}" for n in range(7)]
        assert place.api.calls["list", "configmaps"] == 3
        assert sorted(told) == sorted(reflector.items)
        assert all(
            obj["kind"] == "ConfigMap" and "managedFields" not in obj["metadata"]
            for obj in reflector.items.values()
        )
        labels = {"metadata": {"labels": {"app": "a"}}}
        await place.writes.patch(CONFIG_MAPS, place.namespace, "other", labels)
        await until(reflector, lambda: (place.namespace, "other") in reflector.items)
        labels = {"metadata": {"labels": {"app": "b"}}}
        await place.writes.patch(CONFIG_MAPS, place.namespace, "c0", labels)
        await place.writes.delete(CONFIG_MAPS, place.namespace, "c1")
        await until(reflector, lambda: len(reflector.items) == 6)
        assert place.api.calls["list", "configmaps"] == 3
        assert reflector.counts.watches == 1
    finally:
        running.cancel()


async def test_an_event_that_repeats_is_counted_up(place: Place) -> None:
    obj = await place.writes.create(WIDGETS, widget(place))
    recorder = Recorder(place.writes)
    reflector = Reflector(place.api, EVENTS, namespace=place.namespace)
    tasks = [asyncio.create_task(work()) for work in (recorder.run, reflector.run)]
    try:
        async with asyncio.timeout(LIMIT_S):
            await reflector.synced()
        for _ in range(3):
            recorder.event(obj, "Warning", "Broken", "it broke")
        await until(reflector, lambda: len(reflector.items) == 1)
        (event,) = reflector.items.values()
        assert (event["reason"], event["note"], event["type"]) == ("Broken", "it broke", "Warning")
        assert event["regarding"]["uid"] == obj["metadata"]["uid"]
        assert event["series"]["count"] == 3
        assert recorder.dropped == 0
    finally:
        for task in tasks:
            task.cancel()
