"""What happens to services and their pods, as watches of the benchmark's own tell it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from controller.models.words import MANAGED_BY, SERVICE_LABEL
from headrace.service.kube.api import Api, Call
from headrace.service.kube.events import CONTROLLER
from headrace.service.kube.reflector import Reflector
from headrace.service.kube.resource import MODEL_SERVICES, PODS, Key, Object, Resource, version_of

_OURS: Final = f"{MANAGED_BY[0]}={MANAGED_BY[1]},{SERVICE_LABEL}"


class Seen:
    """Watches services and pods; says when something is first done about a service."""

    def __init__(self, api: Api) -> None:
        self._services = Reflector(
            api, MODEL_SERVICES, on_change=self._service_changed, transform=_service
        )
        self._pods = Reflector(
            api, PODS, label_selector=_OURS, on_change=self._pod_changed, transform=_pod
        )
        self._complete: set[Key] = set()
        self._pods_there: dict[Key, Object] = {}
        self._ending: set[Key] = set()
        self._waiting: dict[Key, asyncio.Future[float]] = {}
        self._moved = asyncio.Event()
        self.ready_pods = 0

    def tasks(self) -> list[Coroutine[None, None, None]]:
        """Return what must run meanwhile."""
        return [self._services.run(), self._pods.run()]

    async def synced(self) -> None:
        """Wait until everything has been seen once."""
        await self._services.synced()
        await self._pods.synced()

    @property
    def services(self) -> Mapping[Key, Object]:
        """Every service by namespace and name."""
        return self._services.items

    @property
    def pods(self) -> int:
        """Pods that are there and not told to go."""
        return len(self._pods_there) - len(self._ending)

    @property
    def complete(self) -> int:
        """Services whose status says that all is as their newest spec wants it."""
        return len(self._complete)

    async def until(self, reached: Callable[[], bool], limit_s: float) -> float:
        """Wait until something holds; return when that was seen."""
        async with asyncio.timeout(limit_s):
            while not reached():
                self._moved.clear()
                await self._moved.wait()
        return time.perf_counter()

    def is_settled(self, services: int, pods: int) -> bool:
        """Whether so many services are complete and exactly so many pods are there."""
        settled = len(self._complete) == services and not self._ending
        return settled and len(self._pods_there) == pods == self.ready_pods

    def expect(self, service: Key) -> asyncio.Future[float]:
        """Return the time of the next pod of a service that is made or told to go, to come."""
        self._waiting[service] = asyncio.get_running_loop().create_future()
        return self._waiting[service]

    def _service_changed(self, key: Key) -> None:
        service = self._services.items.get(key)
        if service is not None and is_complete(service):
            self._complete.add(key)
        else:
            self._complete.discard(key)
        self._moved.set()

    def _pod_changed(self, key: Key) -> None:
        now_s = time.perf_counter()
        pod, before = self._pods.items.get(key), self._pods_there.get(key)
        if pod is None:
            if before is None:
                return
            del self._pods_there[key]
        else:
            self._pods_there[key] = pod
        self.ready_pods += bool(pod and pod["ready"]) - bool(before and before["ready"])
        ending = bool(pod and pod["ending"])
        told_to_go = before is not None and not before["ending"] and (pod is None or ending)
        (self._ending.add if ending else self._ending.discard)(key)
        another = bool(pod and before and _uid(pod) != _uid(before))
        if before is None or told_to_go or another:
            self._acted((pod or before or {})["service"], now_s)
        self._moved.set()

    def _acted(self, service: Key, now_s: float) -> None:
        waiting = self._waiting.pop(service, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(now_s)


def is_complete(service: Object) -> bool:
    """Whether a service's status says that everything is as its newest spec wants it."""
    status, wanted = service["status"], service["replicas"]
    reasons = {item["type"]: item["reason"] for item in status.get("conditions", ())}
    counts = {status.get(name) for name in ("replicas", "readyReplicas", "updatedReplicas")}
    return (
        status.get("observedGeneration") == service["generation"]
        and reasons.get("Progressing") == "Complete"
        and counts == {wanted}
    )


async def versions(api: Api, resource: Resource) -> dict[str, str]:
    """Return the resource version of every object of a kind: any write that changes one shows.

    Of events only the controller's: others tell of pods, too.
    """
    listed = await api.send(Call("list", resource))
    return {
        item["metadata"]["uid"]: version_of(item)
        for item in listed.get("items") or ()
        if item.get("reportingController", CONTROLLER) == CONTROLLER
    }


def _service(obj: dict[str, Any]) -> Object:
    return {
        "metadata": _identity(obj),
        "generation": obj["metadata"]["generation"],
        "replicas": obj["spec"]["replicas"],
        "status": obj.get("status") or {},
    }


def _pod(obj: dict[str, Any]) -> Object:
    metadata = obj["metadata"]
    conditions = obj.get("status", {}).get("conditions", ())
    return {
        "metadata": _identity(obj),
        "service": (metadata["namespace"], metadata["labels"][SERVICE_LABEL]),
        "ending": "deletionTimestamp" in metadata,
        "ready": any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
    }


def _uid(obj: Object) -> str:
    return str(obj["metadata"]["uid"])


def _identity(obj: Object) -> Object:
    kept = ("namespace", "name", "uid", "resourceVersion")
    return {name: obj["metadata"][name] for name in kept}
