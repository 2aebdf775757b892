"""What the controller sees of the cluster: caches fed by watches, indexed by service.

Reads the API server through the reflectors; writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from random import Random
from typing import Any, Final

from controller.models.observe import is_owned
from controller.models.words import MANAGED_BY, SERVICE_LABEL
from headrace.core.clock import Clock
from headrace.service.kube.api import Api
from headrace.service.kube.connect import served
from headrace.service.kube.reflector import Reflector
from headrace.service.kube.resource import (
    CONTROLLER_REVISIONS,
    INFERENCE_POOLS,
    MODEL_SERVICES,
    PDBS,
    PODS,
    RAY_CLUSTERS,
    Key,
    Object,
    Resource,
)
from headrace.service.log import get_logger

_log = get_logger("controller")

ALWAYS: Final = (PODS, CONTROLLER_REVISIONS, PDBS)
OPTIONAL: Final = (RAY_CLUSTERS, INFERENCE_POOLS)
OWNED: Final = (*ALWAYS, *OPTIONAL)
"""What a service is made of; a cluster may lack the optional kinds."""

ASK_S: Final = 20.0
"""How often the API server is asked for a kind that it did not know."""

RAY_CLUSTER_LABEL: Final = "ray.io/cluster"
"""By which KubeRay marks the pods of a cluster."""

_OURS: Final = f"{MANAGED_BY[0]}={MANAGED_BY[1]},{SERVICE_LABEL}"


class Sight:
    """Everything of one namespace, or of all. One owner; ``changed`` is told of every change.

    Args:
        api: The client.
        clock: For waits.
        rng: Spreads the waits of several controllers.
        namespace: "" for all.
        absent: Kinds that the cluster does not know; it is asked again now and then.
        changed: Takes the key of a service that is to be looked at.
        seen: Takes the kind and key of an object of a service's that came or changed.

    """

    def __init__(  # noqa: PLR0913 -- keywords, each used for one thing
        self,
        api: Api,
        clock: Clock,
        rng: Random,
        *,
        namespace: str,
        changed: Callable[[Key], None],
        seen: Callable[[Resource, Key], None],
        absent: Collection[Resource] = (),
    ) -> None:
        self._api = api
        self._clock = clock
        self._namespace = namespace
        self._absent = set(absent)
        self._changed = changed
        self._seen = seen
        self._of_service: dict[Resource, dict[Key, set[Key]]] = {kind: {} for kind in OWNED}
        self._service_of: dict[tuple[Resource, Key], Key] = {}
        self.services = Reflector(
            api,
            MODEL_SERVICES,
            namespace=namespace,
            on_change=self._service_changed,
            clock=clock,
            rng=rng,
        )
        self._owned = {
            resource: Reflector(
                api,
                resource,
                namespace=namespace,
                label_selector=_OURS,
                on_change=partial(self._owned_changed, resource),
                transform=_trim,
                clock=clock,
                rng=rng,
            )
            for resource in OWNED
        }

    def tasks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return what must run for the caches to be kept, and its names."""
        watches = [(found.resource, found.run) for found in self._present()]
        watches += [(kind, partial(self._once_known, kind)) for kind in self._absent]
        return [(f"watch-{resource.plural}", run) for resource, run in watches]

    async def synced(self) -> None:
        """Wait until everything has been seen once: nothing may be decided before."""
        for reflector in self._present():
            await reflector.synced()

    @property
    def kinds(self) -> frozenset[Resource]:
        """What services can be made of in this cluster."""
        return frozenset(self._owned) - self._absent

    @property
    def is_synced(self) -> bool:
        """Whether everything has been seen once."""
        return all(found.is_synced for found in self._present())

    def _present(self) -> list[Reflector]:
        owned = [found for kind, found in self._owned.items() if kind not in self._absent]
        return [self.services, *owned]

    async def _once_known(self, kind: Resource) -> None:
        """Watch a kind from when the cluster knows it, and look at every service again then."""
        while not await served(self._api, kind, self._namespace):
            await self._clock.sleep(ASK_S)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._owned[kind].run())
            await self._owned[kind].synced()
            self._absent.discard(kind)
            _log.info("kind_served", kind=kind.title)
            for key in self.services.items:
                self._changed(key)

    def of(self, resource: Resource, service: Key, uid: str) -> Iterator[Object]:
        """Yield the objects of one kind that belong to a service, and not to one before it."""
        items = self._owned[resource].items
        for key in sorted(self._of_service[resource].get(service, ())):
            obj = items.get(key)
            if obj is not None and is_owned(obj, uid):
                yield obj

    def heads(self, service: Key) -> dict[str, Object]:
        """Return the head pods of a service's Ray clusters, by the cluster's name."""
        items = self._owned[PODS].items
        found: dict[str, Object] = {}
        for key in self._of_service[PODS].get(service, ()):
            name = items[key]["metadata"]["labels"].get(RAY_CLUSTER_LABEL)
            if name is not None:
                found[name] = items[key]
        return found

    def _service_changed(self, key: Key) -> None:
        self._seen(MODEL_SERVICES, key)
        self._changed(key)

    def _owned_changed(self, resource: Resource, key: Key) -> None:
        obj = self._owned[resource].items.get(key)
        service = self._service_of.get((resource, key))
        if obj is None:
            if service is not None:
                del self._service_of[resource, key]
                self._of_service[resource].get(service, set()).discard(key)
        else:
            labels = obj["metadata"].get("labels") or {}
            service = (key[0], labels[SERVICE_LABEL])
            self._service_of[resource, key] = service
            self._of_service[resource].setdefault(service, set()).add(key)
            self._seen(resource, key)
        if service is not None:
            self._changed(service)


def _trim(obj: dict[str, Any]) -> Mapping[str, Any]:
    """Keep of an object what decisions are made from: a pod is 10 KB, what we read of it 2 KB."""
    metadata = obj["metadata"]
    kept = (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "labels",
        "ownerReferences",
    )
    trimmed = {key: value for key, value in obj.items() if key != "metadata"}
    if {"containers", "headGroupSpec"} & set(obj.get("spec", ())):
        del trimmed["spec"]
    trimmed["metadata"] = {key: metadata[key] for key in kept if key in metadata}
    return trimmed
