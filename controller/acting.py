"""Carries out what was decided about a service. Writes to the API server."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final

from controller.api.base import API_VERSION
from controller.api.model_service import KIND
from controller.models.state import Action, Apply, Create, Delete, Object, SetStatus, Tell
from controller.sight import OWNED
from headrace.core.clock import Clock
from headrace.service.kube.errors import KubeConflict, KubeExists, KubeNotFound
from headrace.service.kube.events import Recorder
from headrace.service.kube.resource import (
    MODEL_SERVICES,
    PODS,
    RAY_CLUSTERS,
    Key,
    Resource,
    key_of,
)
from headrace.service.kube.writes import Writes

KINDS: Final[Mapping[str, Resource]] = MappingProxyType(
    {resource.kind: resource for resource in OWNED}
)

UNSEEN_S: Final = 30.0
"""How long a write that no watch has shown yet is trusted to have happened."""

REPLICAS: Final = frozenset({PODS.kind, RAY_CLUSTERS.kind})

AT_ONCE: Final = 8
"""Most replicas of one service that are made, or told to go, side by side. Every worker may do as
much: together they stay near the connections that the client opens."""

UNSEEN: Final = 65_536
"""Most such writes remembered."""


class Recent:
    """Writes that the caches may not show yet, so that they are not made twice.

    Making them twice would do no harm, as names and uids are in them; it would cost calls.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: OrderedDict[Hashable, tuple[float, object]] = OrderedDict()

    def is_made(self, what: Hashable, value: object = None) -> bool:
        """Whether this very thing was written a moment ago."""
        at_s, written = self._made.get(what, (float("-inf"), None))
        return self._clock.now_s() - at_s < UNSEEN_S and written == value

    @contextmanager
    def making(self, what: Hashable, value: object = None) -> Iterator[None]:
        """Remember the write that is made in this block, unless it fails.

        It is remembered from the start: a watch may show it, and what it was may have gone again,
        before its answer has been read.
        """
        self.made(what, value)
        try:
            yield
        except BaseException:
            self.forget(what)
            raise

    def made(self, what: Hashable, value: object = None) -> None:
        """Remember a write."""
        self._made[what] = (self._clock.now_s(), value)
        self._made.move_to_end(what)
        while len(self._made) > UNSEEN:
            self._made.popitem(last=False)

    def forget(self, what: Hashable) -> None:
        """Take note that it has to be made again, should it be wanted."""
        self._made.pop(what, None)


class Acting:
    """Does what decisions say, in their order; one owner."""

    def __init__(self, writes: Writes, recorder: Recorder, clock: Clock) -> None:
        self._writes = writes
        self._recorder = recorder
        self._recent = Recent(clock)

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
                await self._set_status(service, status)
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

    async def _set_status(self, service: Object, status: Object) -> None:
        namespace, name = key_of(service)
        what = ("status", KIND, (namespace, name))
        if self._recent.is_made(what, status):
            return
        body: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"namespace": namespace, "name": name, "uid": service["metadata"]["uid"]},
            "status": dict(status),
        }
        # It may be gone, or be another one by now.
        with suppress(KubeNotFound, KubeConflict), self._recent.making(what, status):
            await self._writes.apply_status(MODEL_SERVICES, body)

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
