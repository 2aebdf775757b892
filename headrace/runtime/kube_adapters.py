"""Follows the LoraAdapter objects of a cluster and keeps them as a list. Opens sockets.

While the API server is away the last list stays in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from typing_extensions import override

from headrace.core.adapter import AdapterSpec
from headrace.core.clock import Clock
from headrace.runtime.adapter_objects import Claim, claims, slim
from headrace.runtime.adapter_source import AdapterSource, ListedAdapters
from headrace.service.clock import RealClock
from headrace.service.kube.api import Api
from headrace.service.kube.reflector import Reflector, ReflectorLimits
from headrace.service.kube.resource import LORA_ADAPTERS, MODEL_SERVICES, Key, Resource
from headrace.service.log import get_logger

_log = get_logger("adapters")

GATHER_S: Final = 0.05
"""How long changes are gathered: whoever makes a thousand objects has the list made a few times."""


class AdapterObjects(AdapterSource):
    """The LoraAdapters of one namespace or of all; up to date while its ``tasks`` run.

    An object names a ModelService; what clients call that one's model is what the adapter changes,
    so ModelServices are followed, too.

    Args:
        api: The API server.
        namespace: Where the objects are; None is everywhere.
        given: Adapters that are there besides, as the settings name them; they win.
        limits: Bounds on following them.
        clock: For waits.

    """

    def __init__(
        self,
        api: Api,
        namespace: str | None = None,
        given: Iterable[AdapterSpec] = (),
        limits: ReflectorLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._given = tuple(given)
        self._clock = clock or RealClock()
        self._list = ListedAdapters(self._given)
        self._problems: dict[Key, Claim] = {}
        self._touched = asyncio.Event()
        self._synced = asyncio.Event()

        def follow(resource: Resource) -> Reflector:
            return Reflector(
                api,
                resource,
                namespace=namespace,
                on_change=lambda _: self._touched.set(),
                transform=slim,
                limits=limits,
                clock=self._clock,
            )

        self._adapters, self._services = follow(LORA_ADAPTERS), follow(MODEL_SERVICES)

    @override
    def specs(self) -> list[AdapterSpec]:
        return self._list.specs()

    @override
    async def changed(self) -> None:
        await self._list.changed()

    @property
    @override
    def tells_all(self) -> bool:
        """Whether the list is of all objects, and as fresh as the API server's answers."""
        away = self._adapters.away or self._services.away
        return self._synced.is_set() and not away

    @property
    def problems(self) -> Mapping[Key, Claim]:
        """The objects that are not served, and why."""
        return MappingProxyType(self._problems)

    async def synced(self) -> None:
        """Wait until the list has been made of all there is, for the first time."""
        await self._synced.wait()

    def tasks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return what must run for the list to be kept, and its names."""
        return [
            ("watch-adapters", self._adapters.run),
            ("watch-services", self._services.run),
            ("list-adapters", self._keep),
        ]

    async def _keep(self) -> None:
        """Make the list anew whenever something changed, for ever."""
        await self._adapters.synced()
        await self._services.synced()
        while True:
            self._touched.clear()
            self._make()
            self._synced.set()
            await self._touched.wait()
            await self._clock.sleep(GATHER_S)

    def _make(self) -> None:
        found = claims(self._adapters.items.values(), self._services.items)
        problems = {key: claim for key, claim in found.items() if claim.spec is None}
        for key, claim in problems.items():
            if self._problems.get(key) != claim:
                about = {"reason": claim.reason, "why": claim.message}
                _log.warning("adapter_unusable", adapter="/".join(key), **about)
        self._problems = problems
        specs = {claim.spec.name: claim.spec for claim in found.values() if claim.spec is not None}
        self._list.replace({**specs, **{spec.name: spec for spec in self._given}}.values())
