"""Tells people of an object what we did with it: Kubernetes events. Talks to the API.

Telling never waits and never fails: events that cannot be written are dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from headrace.core.clock import Clock
from headrace.service.clock import RealClock
from headrace.service.kube.backoff import Backoff
from headrace.service.kube.bucket import TokenBucket
from headrace.service.kube.errors import KubeError, KubeNotFound
from headrace.service.kube.event_log import EventLimits, EventLog, Happening, Told
from headrace.service.kube.resource import EVENTS, Object
from headrace.service.kube.writes import Writes
from headrace.service.log import get_logger

_log = get_logger("kube")

CONTROLLER: Final = "headrace.dev/controller"

NOTE_BYTES: Final = 1_024
"""Longest note. Source: Kubernetes, pkg/apis/core/validation/events.go, ``NoteLengthLimit``."""

_ATTEMPTS: Final = 5
_RETRY: Final = Backoff(first_s=0.5, most_s=10.0)
_NAME_LENGTH: Final = 200  # of 253, so that what is added fits


def time_of_day() -> str:
    """Return now as the API's ``MicroTime``."""
    now = datetime.now(UTC)  # noqa: TID251 -- for people, who read times of day
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Recorder:
    """Takes events by ``event`` and writes them while ``run`` does. Belongs to one event loop.

    Args:
        writes: To write with.
        instance: Which of several processes tells, such as the pod's name.
        limits: Bounds on what is told.
        clock: For waits.
        rng: For names.
        wall: The time of day.

    """

    def __init__(
        self,
        writes: Writes,
        *,
        instance: str = "headrace",
        limits: EventLimits | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        wall: Callable[[], str] = time_of_day,
    ) -> None:
        self._writes = writes
        self._instance = instance[:128]
        self._clock = clock or RealClock()
        self._rng = rng or Random()
        self._wall = wall
        self._told = EventLog(limits or EventLimits())
        self._bucket = TokenBucket(10.0, 50)  # so that objects have most of the writes
        self._wake = asyncio.Event()
        self._failed = 0

    @property
    def dropped(self) -> int:
        """Events that were never written."""
        return self._told.dropped + self._failed

    def event(self, obj: Object, kind_type: str, reason: str, message: str) -> None:
        """Tell of ``obj``.

        Args:
            obj: With its ``apiVersion``, ``kind``, name, namespace and uid.
            kind_type: ``Normal`` or ``Warning``.
            reason: In CamelCase, at most 128 characters.
            message: For people; cut where it is too long.

        """
        note = message.encode()[:NOTE_BYTES].decode(errors="ignore")
        self._told.tell(Happening(obj, kind_type, reason, note), self._clock.now_s())
        self._wake.set()

    async def run(self) -> None:
        """Write events as they come, for ever; to be supervised, and cancelled at the end."""
        while True:
            told = self._told.take(self._clock.now_s())
            if told is None:
                await self._pause()
                continue
            wait_s = self._bucket.take(self._clock.now_s(), float("inf"))
            await self._clock.sleep(wait_s or 0.0)
            await self._write(told)

    async def _pause(self) -> None:
        """Wait until something may be due."""
        due_s = self._told.next_s()
        self._wake.clear()
        if due_s is None:
            await self._wake.wait()
            return
        # Whatever comes meanwhile may be due sooner: whichever is first ends the wait.
        woken = asyncio.ensure_future(self._wake.wait())
        slept = asyncio.ensure_future(self._clock.sleep(max(0.0, due_s - self._clock.now_s())))
        try:
            await asyncio.wait((woken, slept), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            slept.cancel()

    async def _write(self, told: Told) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._write_once(told)
                return
            except KubeError as error:
                if not error.retry_safe or attempt == _ATTEMPTS:
                    self._failed += 1
                    reason = told.first.reason
                    _log.info("kube_event_dropped", reason=reason, why=error.message)
                    return
            await self._clock.sleep(_RETRY.wait_s(attempt, self._rng))

    async def _write_once(self, told: Told) -> None:
        namespace = told.first.regarding["metadata"].get("namespace") or "default"
        series = {"count": told.count, "lastObservedTime": self._wall()}
        if told.name:
            try:
                await self._writes.patch(EVENTS, namespace, told.name, {"series": series})
                return
            except KubeNotFound:  # the server keeps events for an hour
                told.count = 1
        made = self._object(told, namespace)
        if told.count > 1:  # it was seen again before it could be written
            made["series"] = series
        await self._writes.create(EVENTS, made)
        told.name = made["metadata"]["name"]

    def _object(self, told: Told, namespace: str) -> dict[str, Any]:
        regarding, metadata = told.first.regarding, told.first.regarding["metadata"]
        name = f"{metadata['name'][:_NAME_LENGTH]}.{self._rng.getrandbits(64):016x}"
        return {
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": self._wall(),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "type": told.first.kind_type,
            "reason": told.first.reason[:128],
            "note": told.first.note,
            "regarding": {
                "apiVersion": regarding.get("apiVersion", ""),
                "kind": regarding.get("kind", ""),
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata.get("uid", ""),
            },
        }
