"""Follows a fleet on Ray that another process keeps: its endpoints, and no decisions. Talks to Ray.

While Ray does not answer, the last list stays in force.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from typing_extensions import override

from controller.fleets.ray.cluster import ClusterSilent, RayCluster
from controller.fleets.ray.config import RaySettings
from controller.fleets.ray.sight import Limits, endpoint_of
from controller.fleets.ray.watch import Watch
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView
from headrace.runtime.discovery import EndpointSource, ListSource, or_gone
from headrace.service.log import get_logger

_log = get_logger("endpoints")


START_S: Final = 3_600.0
"""A supervisor that has not answered yet is the keeper's worry, and no endpoint to us."""


class RaySource(EndpointSource):
    """The endpoints of a fleet on Ray; up to date while ``run`` runs.

    Each is listed from when its supervisor has started its engine, and drains from when that was
    told to stop. All methods belong to one event loop.
    """

    def __init__(
        self,
        address: str,
        fleet: str,
        limits: RaySettings,
        clock: Clock,
        cluster: RayCluster | None = None,
    ) -> None:
        self._address = address
        self._limits = limits
        self._clock = clock
        self._cluster = cluster or RayCluster(limits.call_s)
        seen = Limits(limits.lost_after_s, START_S)
        self._watch = Watch(self._cluster, fleet, seen, clock)
        self._list = ListSource()
        self._first = asyncio.Event()
        self._away = False

    async def __aenter__(self) -> Self:
        """Join the cluster.

        Raises:
            ConfigError: when there is none at the address.

        """
        await self._cluster.connect(self._address, "discovery.address")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._cluster.close()

    @override
    def endpoints(self) -> list[EndpointView]:
        return self._list.endpoints()

    @override
    async def changed(self) -> None:
        await self._list.changed()

    @property
    @override
    def away(self) -> bool:
        return self._away

    async def synced(self) -> None:
        """Wait until the fleet has been looked at once."""
        await self._first.wait()

    async def run(self) -> None:
        """Follow the fleet until cancelled."""
        while True:
            try:
                await self._watch.look()
            except ClusterSilent as error:
                if not self._away:
                    _log.warning("ray_away", why=str(error), effect="the last list stays in use")
                self._away = True
            else:
                if self._away:
                    _log.info("ray_back")
                self._away = False
                self._take()
            await self._clock.sleep(self._limits.period_s)

    def _take(self) -> None:
        seen = [endpoint_of(sight) for sight in self._watch.sights.values()]
        views = [view for view in seen if view is not None]
        self._list.replace(or_gone(views, self._list.endpoints()))
        self._first.set()
