from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("ray")

from controller.fleets.ray.cluster import ClusterSilent, GroupState, SupervisorDied
from controller.fleets.ray.config import RaySettings
from controller.fleets.ray.names import ReplicaName
from controller.fleets.ray.plan import Phase
from controller.fleets.ray.reports import Engine, Report
from controller.fleets.ray.source import RaySource
from headrace.core.endpoint import Health

OURS = ReplicaName("f", 0, "r", "t")
OTHER = ReplicaName("g", 0, "r", "t")
ENGINE = Engine("sim", "http://10.0.0.1:9", "both", True, models=("m",))


class Cluster:
    """What a cluster answers; nobody is asked for what it does not name."""

    def __init__(self) -> None:
        self.reports: dict[ReplicaName, Report | Exception] = {}
        self.silent = False
        self.asked: list[ReplicaName] = []

    async def supervisors(self) -> set[ReplicaName]:
        if self.silent:
            raise ClusterSilent("no answer in 10 s")
        return set(self.reports)

    async def groups(self) -> dict[ReplicaName, GroupState]:
        return {name: GroupState(True, ("node",)) for name in self.reports}

    async def report(self, name: ReplicaName) -> Report:
        self.asked.append(name)
        told = self.reports[name]
        if isinstance(told, Exception):
            raise told
        return told


class Turns:
    """A clock on which every wait is one turn, taken when the test says so."""

    def __init__(self) -> None:
        self._s = 0.0
        self._due = asyncio.Event()
        self._waits = asyncio.Event()

    def now_s(self) -> float:
        return self._s

    async def sleep(self, delay_s: float) -> None:
        self._waits.set()
        await self._due.wait()
        self._due.clear()
        self._s += delay_s

    async def turn(self) -> None:
        """Let the next look happen, and return when it has."""
        await self._waits.wait()
        self._waits.clear()
        self._due.set()
        await self._waits.wait()


async def test_it_follows_its_fleet_and_keeps_the_list_while_ray_is_silent() -> None:
    cluster, clock = Cluster(), Turns()
    handed: Any = cluster
    source = RaySource("auto", "f", RaySettings(), clock, handed)
    cluster.reports = {
        OURS: Report(Phase.READY, "10.0.0.1", ENGINE),
        OTHER: Report(Phase.READY, "10.0.0.2", ENGINE),
    }
    following = asyncio.create_task(source.run())
    async with asyncio.timeout(10):
        await source.synced()
        assert [view.endpoint_id for view in source.endpoints()] == ["f-0-t"]
        assert set(cluster.asked) == {OURS}
        cluster.silent = True
        await clock.turn()
        assert source.away
        assert len(source.endpoints()) == 1
        cluster.silent = False
        cluster.reports[OURS] = Report(Phase.STOPPING, "10.0.0.1", ENGINE)
        await clock.turn()
        assert not source.away
        assert [view.health for view in source.endpoints()] == [Health.DRAINING]
        cluster.reports[OURS] = SupervisorDied("gone")
        await clock.turn()
        assert [view.health for view in source.endpoints()] == [Health.DOWN]
        cluster.reports = {OURS: Report(Phase.READY, "10.0.0.1", ENGINE)}
        await clock.turn()
        assert [view.health for view in source.endpoints()] == [Health.READY]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
