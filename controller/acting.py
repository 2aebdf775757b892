"""Carries out what was decided about a service. Writes to the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from types import MappingProxyType
from typing import Final

from controller.api.base import API_VERSION
from controller.api.model_service import KIND
from controller.models.state import Action, Apply, Create, Delete, Object, SetStatus, Tell
from controller.recent import Recent
from controller.sight import OWNED
from controller.statuses import Statuses
from headrace.core.clock import Clock
from headrace.service.kube.errors import KubeConflict, KubeExists
from headrace.service.kube.events import Recorder
from headrace.service.kube.resource import PODS, RAY_CLUSTERS, Key, Resource, key_of
from headrace.service.kube.writes import Writes

KINDS: Final[Mapping[str, Resource]] = MappingProxyType(
    {resource.kind: resource for resource in OWNED}
)

REPLICAS: Final = frozenset({PODS.kind, RAY_CLUSTERS.kind})

AT_ONCE: Final = 8
"""Most replicas of one service that are made, or told to go, side by side. Every worker may do as
much: together they stay near the connections that the client opens."""


class Acting:
    """Does what decisions say, in their order; one owner.

    Statuses are left to ``statuses``, which must run for them to be written.
    """

    def __init__(self, writes: Writes, recorder: Recorder, clock: Clock) -> None:
        self._writes = writes
        self._recorder = recorder
        self._recent = Recent(clock)
        self.statuses = Statuses(writes, self._recent, clock)

    async def act(self, service: Object, actions: tuple[Action, ...]) -> None:
        """Carry out what was decided about one service.

        Raises:
            KubeError: where a call failed; what comes after it is decided anew.

        """
        for batch in batches(actions):
            done = await asyncio.gather(
                *(self._do(service, action) for action in batch), return_exceptions=True
            )
            for error in done:
                if error is not None:
                    raise error

    async def _do(self, service: Object, action: Action) -> None:
        match action:
            case Create(manifest):
                await self._create(manifest)
            case Apply(manifest):
                await self._apply(manifest)
            case Delete(kind, name, uid):
                await self._delete(KINDS[kind], (key_of(service)[0], name), uid)
            case SetStatus(status):
                self.statuses.leave(service, status)
            case Tell():
                self._tell(service, action)

    def seen(self, resource: Resource, key: Key) -> None:
        """Take note that a watch shows an object: from now on what it shows is what counts."""
        for verb in ("create", "apply", "status"):
            self._recent.forget((verb, resource.kind, key))

    async def _create(self, manifest: Object) -> None:
        what = ("create", manifest["kind"], key_of(manifest))
        owner = owner_uid(manifest)
        if self._recent.is_made(what, owner):
            return
        # Where it exists it was made before, by us or by who led before us.
        with self._recent.making(what, owner), suppress(KubeExists):
            await self._writes.create(KINDS[manifest["kind"]], manifest)

    async def _apply(self, manifest: Object) -> None:
        what = ("apply", manifest["kind"], key_of(manifest))
        if self._recent.is_made(what, manifest):
            return
        with self._recent.making(what, manifest):
            await self._writes.apply(KINDS[manifest["kind"]], manifest)

    async def _delete(self, resource: Resource, key: Key, uid: str) -> None:
        what = ("delete", uid)
        if self._recent.is_made(what):
            return
        with self._recent.making(what), suppress(KubeConflict):  # another of that name is there
            await self._writes.delete(resource, *key, uid=uid)

    def _tell(self, service: Object, told: Tell) -> None:
        """Tell it once, though it is decided again until a watch shows the status that says it."""
        what = ("tell", service["metadata"]["uid"], told.reason)
        if self._recent.is_made(what, told.message):
            return
        self._recorder.event(
            {**service, "apiVersion": API_VERSION, "kind": KIND},
            "Warning" if told.warning else "Normal",
            told.reason,
            told.message,
        )
        self._recent.made(what, told.message)


def batches(actions: Sequence[Action]) -> Iterator[Sequence[Action]]:
    """Yield actions in their order, those that may be carried out side by side together.

    These are replicas that are all made, or all told to go: first one, then twice as many each
    time, so that a quota that refuses one is not asked for all of them. Source: Kubernetes'
    ``slowStartBatch``.
    """
    for _, run in groupby(actions, _sort):
        alike = list(run)
        size = 1
        while alike:
            yield alike[:size]
            del alike[:size]
            size = min(AT_ONCE, size * 2)


def _sort(action: Action) -> object:
    """Return what neighbours that may go side by side have in common; one's own for others."""
    match action:
        case Create(manifest) if manifest["kind"] in REPLICAS:
            return Create
        case Delete(kind) if kind in REPLICAS:
            return Delete
    return id(action)


def owner_uid(manifest: Object) -> str:
    """Return whose object it is: one of the same name for a later service is another."""
    references = manifest["metadata"].get("ownerReferences") or [{}]
    return str(references[0].get("uid", ""))
