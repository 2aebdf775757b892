"""Everything that changes objects, within a rate. Talks to the API.

Objects are made by server-side apply under one field manager: we own the fields that we set and
leave everyone else's alone, and applying the same again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from headrace.core.clock import Clock
from headrace.service.clock import RealClock
from headrace.service.kube.api import Api, Call
from headrace.service.kube.bucket import TokenBucket
from headrace.service.kube.errors import KubeNotFound, KubeThrottled
from headrace.service.kube.resource import EVENTS, Object, Resource, key_of, version_of

FIELD_MANAGER: Final = "headrace-controller"

Propagation = Literal["Background", "Foreground", "Orphan"]

LATE_S: Final = 10.0
"""Longest that what only tells people gives way to what changes something."""


class Writes:
    """Changes objects. Every method raises ``KubeError``.

    Statuses and events only tell: they give way to everything else for ``LATE_S``, then take turns.

    Args:
        api: The client.
        qps: Writes per second in the long run. An API server takes hundreds from one client; its
            own priority and fairness has the last word.
        burst: Writes at once.
        most_wait_s: Longest wait for a turn; who would wait longer gets ``KubeThrottled``.
        field_manager: Who owns what is set.
        clock: For turns.

    """

    def __init__(
        self,
        api: Api,
        qps: float = 50.0,
        burst: int = 200,
        *,
        most_wait_s: float = 60.0,
        field_manager: str = FIELD_MANAGER,
        clock: Clock | None = None,
    ) -> None:
        self._api = api
        self._bucket = TokenBucket(qps, burst)
        self._most_wait_s = most_wait_s
        self._manager = {"fieldManager": field_manager}
        self._clock = clock or RealClock()

    async def apply(self, resource: Resource, obj: Object) -> dict[str, Any]:
        """Make the fields in ``obj`` what it says, creating it where need be; return what is there.

        Fields that another manager owns become ours.
        """
        return await self._apply(resource, obj, "")

    async def apply_status(self, resource: Resource, obj: Object) -> dict[str, Any]:
        """Do the same with ``obj["status"]``; everything else in it only says which object."""
        return await self._apply(resource, obj, "status")

    async def create(self, resource: Resource, obj: Object) -> dict[str, Any]:
        """Create an object; ``KubeExists`` where one of its name is there."""
        call = Call("create", resource, key_of(obj)[0])
        return await self._send(call, _typed(resource, obj), self._manager)

    async def update(self, resource: Resource, obj: Object) -> dict[str, Any]:
        """Replace an object; ``KubeConflict`` where it is not at the resource version it says."""
        call = Call("update", resource, *key_of(obj))
        return await self._send(call, _typed(resource, obj), self._manager)

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Mapping[str, Any],
        subresource: str = "",
    ) -> dict[str, Any]:
        """Apply a JSON merge patch: None removes a field, lists are replaced."""
        call = Call("patch", resource, namespace, name, subresource)
        return await self._send(call, patch, self._manager)

    async def set_finalizers(
        self, resource: Resource, obj: Object, finalizers: Sequence[str]
    ) -> dict[str, Any]:
        """Replace an object's finalizers; ``KubeConflict`` if it is not as ``obj`` has it."""
        metadata = {"finalizers": list(finalizers) or None, "resourceVersion": version_of(obj)}
        return await self.patch(resource, *key_of(obj), {"metadata": metadata})

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        propagation: Propagation = "Background",
        grace_s: int | None = None,
    ) -> bool:
        """Ask for an object to be deleted; return whether there was one.

        Args:
            resource: The kind.
            namespace: "" for kinds that lie in none.
            name: Which one.
            uid: Only if it is the one with this uid; another of its name is a ``KubeConflict``.
            propagation: What becomes of those that it owns.
            grace_s: Of pods; None takes their own.

        """
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
        }
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            await self._send(Call("delete", resource, namespace, name), body, {})
        except KubeNotFound:
            return False
        return True

    async def _apply(self, resource: Resource, obj: Object, subresource: str) -> dict[str, Any]:
        call = Call("apply", resource, *key_of(obj), subresource)
        return await self._send(call, _typed(resource, obj), {**self._manager, "force": "true"})

    async def _send(
        self, call: Call, body: Mapping[str, Any], params: Mapping[str, str]
    ) -> dict[str, Any]:
        if call.subresource == "status" or call.resource == EVENTS:
            await self._give_way()
        else:
            await self._take_turn()
        return await self._api.send(call, body, params)

    async def _give_way(self) -> None:
        late_s = self._clock.now_s() + LATE_S
        while (now_s := self._clock.now_s()) < late_s:
            wait_s = self._bucket.spare(now_s)
            if not wait_s:
                return
            await self._clock.sleep(min(wait_s, late_s - now_s))
        await self._take_turn()

    async def _take_turn(self) -> None:
        wait_s = self._bucket.take(self._clock.now_s(), self._most_wait_s)
        if wait_s is None:
            message = f"more than {self._most_wait_s:g} s of writes wait already"
            raise KubeThrottled(message, retry_after_s=self._most_wait_s)
        if wait_s:
            await self._clock.sleep(wait_s)


def _typed(resource: Resource, obj: Object) -> dict[str, Any]:
    """Return the object with its kind, and without what must not be applied."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    kind = {"apiVersion": resource.api_version, "kind": resource.kind}
    return {**obj, **kind, "metadata": metadata}
