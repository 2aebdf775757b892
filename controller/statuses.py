"""Writes statuses behind what changes pods, and only the latest of each. Writes to the API.

Nobody waits for a status; a service whose change waits behind five hundred statuses does. So a
worker leaves a status here and goes on, and what it left counts as the service's own meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from controller.api.base import API_VERSION
from controller.api.model_service import KIND
from controller.models.state import Object
from controller.recent import Recent
from headrace.core.clock import Clock
from headrace.service.kube.errors import KubeConflict, KubeNotFound
from headrace.service.kube.resource import MODEL_SERVICES, Key, key_of
from headrace.service.kube.workqueue_shell import WorkLimits, WorkQueue
from headrace.service.kube.writes import Writes

AT_ONCE: Final = 2
"""Statuses written side by side: enough for a hundred a second from a server that is at ease, and
few beside the workers' writes where it is not."""

ONE_S: Final = 120.0
"""What one may take: most of it is waiting for its turn behind others."""


class Statuses:
    """Statuses that are still to be written, one per service; one owner.

    Args:
        writes: Takes statuses last.
        recent: What was written and no watch has shown yet.
        clock: For waits.

    """

    def __init__(self, writes: Writes, recent: Recent, clock: Clock) -> None:
        self._writes = writes
        self._recent = recent
        self._left: dict[Key, tuple[str, Object]] = {}
        self._queue: WorkQueue[Key] = WorkQueue(
            self._write, WorkLimits(workers=AT_ONCE, one_s=ONE_S), clock
        )

    def __len__(self) -> int:
        """Return how many are still to be written."""
        return len(self._left)

    def leave(self, service: Object, status: Object) -> None:
        """Have a status written in a while, in place of one that was left before it."""
        key = key_of(service)
        if self._recent.is_made(_made(key), status):
            self._left.pop(key, None)
            return
        self._left[key] = (service["metadata"]["uid"], status)
        self._queue.add(key)

    def known(self, service: Object) -> Object:
        """Return a service with the status that was left for it, if any: what it remembers."""
        uid, status = self._left.get(key_of(service), ("", None))
        if status is None or uid != service["metadata"]["uid"]:
            return service
        return {**service, "status": status}

    async def run(self) -> None:
        """Write until cancelled. What is left then is forgotten: whoever acts next decides anew."""
        try:
            await self._queue.run()
        finally:
            self._left.clear()

    async def _write(self, key: Key) -> None:
        found = self._left.get(key)
        if found is None:
            return
        uid, status = found
        body: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"namespace": key[0], "name": key[1], "uid": uid},
            "status": dict(status),
        }
        # It may be gone, or be another one by now.
        with suppress(KubeNotFound, KubeConflict), self._recent.making(_made(key), status):
            await self._writes.apply_status(MODEL_SERVICES, body)
        if self._left.get(key) is found:
            del self._left[key]


def _made(key: Key) -> tuple[str, str, Key]:
    return ("status", KIND, key)
