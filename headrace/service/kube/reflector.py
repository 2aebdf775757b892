"""A copy of all objects of a kind, kept up to date by one list and then a watch. Talks to the API.

Consumers are level-triggered: read ``items``, act on all of it, await ``changed()``, repeat; or
take each key that changed into a work queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import orjson

from headrace.core.clock import Clock
from headrace.service.clock import RealClock
from headrace.service.kube.api import Api, Call
from headrace.service.kube.backoff import Backoff
from headrace.service.kube.errors import KubeError, KubeGone, KubeUnreachable, error_of
from headrace.service.kube.resource import Key, Object, Resource, key_of, version_of
from headrace.service.log import get_logger

_log = get_logger("kube")

_EVENTS: Final = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"})
_SOON_S: Final = 1.0
"""Before a watch that ended sooner is begun again there is a wait, as after a failure."""

_RETRY: Final = Backoff(first_s=0.2, most_s=10.0)


@dataclass(frozen=True, slots=True)
class ReflectorLimits:
    """Bounds on a reflector.

    Attributes:
        page: Objects per page of a list. Source: client-go's pager, 500.
        watch_s: Longest watch; a random part of the upper half is asked for, so that the watches
            of many clients do not end together. Source: client-go's reflector, 5 to 10 minutes.
        read_s: Longest silence of a watch. Servers send a bookmark about once a minute; without
            any the watch is merely begun again where it was.
        retry: After failures.
        event_bytes: Longest event. Source: etcd's request limit of 1.5 MiB, with room for another
            version of the object.

    """

    page: int = 500
    watch_s: float = 600.0
    read_s: float = 100.0
    retry: Backoff = _RETRY
    event_bytes: int = 8 << 20


@dataclass(slots=True)
class ReflectorCounts:
    """What a reflector has done so far."""

    lists: int = 0
    watches: int = 0
    events: int = 0
    failures: int = 0


def trimmed(obj: dict[str, Any]) -> dict[str, Any]:
    """Drop who owns which field: half of a pod's memory, and read by nobody here."""
    obj["metadata"].pop("managedFields", None)
    return obj


OnChange = Callable[[Key], None]
"""Takes the key of an object that came, changed or went; must not raise or wait."""

Transform = Callable[[dict[str, Any]], Object]
"""Returns what is kept of an object: its metadata's name, namespace, uid and version at least."""


class Reflector:
    """Keeps ``items`` while ``run`` does. Belongs to one event loop.

    While the server is away the last copy stays; ``run`` comes back to it whatever it takes. Then
    it goes on where it was, or lists again where too much was missed.

    Args:
        api: The client.
        resource: The kind.
        namespace: None or "" for all.
        label_selector: As the API has it; None for all.
        on_change: Told of every key; in the order of the events where they came one by one.
        transform: Applied to every object that comes; the default is ``trimmed``.
        limits: Bounds.
        clock: For waits.
        rng: Spreads the waits of many clients.

    """

    def __init__(  # noqa: PLR0913 -- keywords, nearly all with defaults
        self,
        api: Api,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        on_change: OnChange | None = None,
        transform: Transform | None = None,
        limits: ReflectorLimits | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._api = api
        self.resource = resource
        self._call = Call("list", resource, namespace or "")
        self._selector = {"labelSelector": label_selector} if label_selector else {}
        self._on_change = on_change
        self._transform = transform or trimmed
        self._limits = limits or ReflectorLimits()
        self._clock = clock or RealClock()
        self._rng = rng or Random()
        self._items: dict[Key, Object] = {}
        self._version = ""  # where to go on; "" is: list
        self._synced = asyncio.Event()
        self._next = asyncio.Event()
        self._away = False
        self._began_s = 0.0  # the watch
        self.counts = ReflectorCounts()

    @property
    def items(self) -> Mapping[Key, Object]:
        """Every object by namespace and name, as last told; live, and not to be changed."""
        return self._items

    @property
    def away(self) -> bool:
        """Whether the server did not answer when last asked: ``items`` may be old."""
        return self._away

    @property
    def is_synced(self) -> bool:
        """Whether there has been a whole list."""
        return self._synced.is_set()

    async def synced(self) -> None:
        """Wait until ``items`` are all there is, for the first time."""
        await self._synced.wait()

    async def changed(self) -> None:
        """Wait until ``items`` differ from what they are at the moment of the call."""
        await self._next.wait()

    async def run(self) -> None:
        """Keep ``items`` up to date, for ever; to be supervised, and cancelled at the end."""
        failures = 0
        while True:
            told = self.counts.events
            error = await self._round()
            if error is None and self._clock.now_s() - self._began_s >= _SOON_S:
                failures = 0
                continue
            failures = 1 if self.counts.events > told else failures + 1
            if error is not None:
                self.counts.failures += 1
                self._failed(error, failures)
            await self._clock.sleep(self._limits.retry.wait_s(failures, self._rng))

    async def _round(self) -> KubeError | None:
        """List if need be, and watch until that ends; return what it failed of."""
        try:
            if not self._version:
                await self._list()
            self._began_s = self._clock.now_s()
            await self._watch()
        except KubeError as error:
            if isinstance(error, KubeGone):
                self._version = ""
            return error
        return None

    def _failed(self, error: KubeError, failures: int) -> None:
        """Say what failed; that one watch ended in whatever way is nothing to be told of."""
        if isinstance(error, KubeGone):
            _log.info("kube_relist", kind=self.resource.plural, why=error.message)
        elif failures > 1 and not self._away:
            self._away = True
            effect = "what was last known stays in force"
            _log.warning("kube_away", kind=self.resource.plural, why=error.message, effect=effect)

    def _back(self) -> None:
        if self._away:
            self._away = False
            _log.info("kube_back", kind=self.resource.plural)

    async def _list(self) -> None:
        """Replace the copy by what is there.

        No resource version is given, so the list is of now and not of some cache that is behind:
        the copy never goes back in time.
        """
        found: dict[Key, Object] = {}
        params = {"limit": str(self._limits.page), **self._selector}
        while True:
            page = await self._api.send(self._call, params=params)
            for item in page.get("items") or ():
                # Items of a list do not say what they are.
                kept = {"apiVersion": self.resource.api_version, "kind": self.resource.kind} | item
                found[key_of(kept)] = self._transform(kept)
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                break
            params["continue"] = metadata["continue"]
        self.counts.lists += 1
        self._version = str(metadata.get("resourceVersion", ""))
        before, self._items = self._items, found
        differ = [k for k, obj in found.items() if k not in before or _differ(before[k], obj)]
        self._back()
        self._synced.set()
        self._announce([*differ, *sorted(before.keys() - found.keys())])

    async def _watch(self) -> None:
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(self._limits.watch_s * self._rng.uniform(0.5, 1.0)) or 1),
            **self._selector,
        }
        call = replace(self._call, verb="watch")
        self.counts.watches += 1
        async with self._api.stream(call, params, self._limits.read_s) as chunks:
            self._back()
            rest = b""
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > self._limits.event_bytes:
                    raise KubeUnreachable(
                        f"an event is longer than {self._limits.event_bytes} bytes"
                    )
                self._take(lines)

    def _take(self, lines: list[bytes]) -> None:
        """Apply the events of one chunk, and tell of all of them at once."""
        touched: dict[Key, None] = {}
        try:
            for line in lines:
                if line.strip():
                    self._apply(line, touched)
        finally:
            self._announce(touched)

    def _apply(self, line: bytes, touched: dict[Key, None]) -> None:
        try:
            event = orjson.loads(line)
            kind, obj = event["type"], event["object"]
        except (ValueError, KeyError, TypeError):
            raise KubeUnreachable(f"a watch of {self.resource.plural} said {line[:80]!r}") from None
        if kind == "ERROR":
            raise error_of(int(obj.get("code") or 500), obj)
        if kind not in _EVENTS:
            raise KubeUnreachable(f"a watch of {self.resource.plural} said {kind!r}")
        self.counts.events += 1
        self._version = version_of(obj)
        if kind == "BOOKMARK":
            return
        key = key_of(obj)
        before = self._items.get(key)
        if kind == "DELETED":
            self._items.pop(key, None)
        elif before is None or _differ(before, obj):
            self._items[key] = self._transform(obj)
        else:
            return
        touched[key] = None

    def _announce(self, keys: Collection[Key]) -> None:
        if not keys:
            return
        event, self._next = self._next, asyncio.Event()
        event.set()
        if self._on_change is not None:
            for key in keys:
                self._on_change(key)


def _differ(before: Object, after: Object) -> bool:
    """Whether they are not the same state of the same object."""
    return version_of(before) != version_of(after) or before["metadata"].get("uid") != after[
        "metadata"
    ].get("uid")
