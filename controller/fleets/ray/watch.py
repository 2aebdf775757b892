"""Every incarnation of a fleet's replicas, looked at again and again. Talks to Ray.

Who keeps a fleet and who only follows it see the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from controller.fleets.ray.cluster import ClusterSilent, GroupState, RayCluster, SupervisorDied
from controller.fleets.ray.names import ReplicaName
from controller.fleets.ray.sight import Limits, Look, Sight, looked
from headrace.core.clock import Clock


class Watch:
    """What is known of the fleet called ``fleet``; ``sights`` is the owner's to add to."""

    def __init__(self, cluster: RayCluster, fleet: str, limits: Limits, clock: Clock) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._limits = limits
        self._clock = clock
        self.sights: dict[ReplicaName, Sight] = {}

    async def look(self) -> Mapping[ReplicaName, Sight]:
        """Look at every incarnation once; return what was known before.

        Raises:
            ClusterSilent: when Ray does not answer.

        """
        supervised = await self._cluster.supervisors()
        groups = await self._cluster.groups()
        ours = sorted(name for name in supervised | groups.keys() if name.fleet == self._fleet)
        looks = await asyncio.gather(
            *(self._look(name, name in supervised, groups.get(name)) for name in ours)
        )
        now_s = self._clock.now_s()
        before, self.sights = self.sights, {}
        for name, look in zip(ours, looks, strict=True):
            self.sights[name] = looked(before.get(name), name, look, now_s, self._limits)
        return before

    async def _look(self, name: ReplicaName, supervised: bool, group: GroupState | None) -> Look:
        placed = group is not None and group.placed
        if not supervised or not placed:
            return Look(supervised, placed)
        try:
            return Look(supervised, placed, await self._cluster.report(name))
        except SupervisorDied:
            return Look(supervised, placed, died=True)
        except ClusterSilent:
            return Look(supervised, placed)
