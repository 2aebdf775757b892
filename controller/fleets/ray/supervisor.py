"""One replica on Ray: a detached actor that starts its engine, keeps it running and tells of it.

It is the local fleet with one replica, on a node that Ray chose. It needs nobody: whoever started
it may die and come back. Its engine cannot outlive it (see ``engines/spawner.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Final

import ray
import ray.exceptions
import ray.util
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from controller.fleets.config import FleetSettings
from controller.fleets.local import LocalFleet
from controller.fleets.protocol import FleetFailed
from controller.fleets.quiet import EngineCount
from controller.fleets.ray.member import Member, gpu_ids, node_address
from controller.fleets.ray.plan import Phase
from controller.fleets.ray.recipe import Group, own_settings, planner
from controller.fleets.ray.reports import Engine, Report, encode, read_assignment
from controller.fleets.ray.shape import cards_per_node
from controller.fleets.recipes import free_ports
from controller.fleets.spawn import log_tail
from controller.fleets.unit import UnitState
from headrace.core.endpoint import EndpointView
from headrace.core.errors import HeadraceError
from headrace.core.ids import EndpointId
from headrace.service.clock import RealClock
from headrace.service.log import configure_logging, get_logger

_log = get_logger("supervisor")

_PHASES: Final = {
    UnitState.STARTING: Phase.STARTING,
    UnitState.READY: Phase.READY,
    UnitState.BACKING_OFF: Phase.BACKING_OFF,
    UnitState.FAILED: Phase.FAILED,
    UnitState.STOPPING: Phase.STOPPING,
    UnitState.STOPPED: Phase.STOPPED,
}


class Supervisor:
    """Runs one assignment. ``report`` begins the work the first time it is called."""

    def __init__(self, assignment: bytes) -> None:
        configure_logging(json=True, level="info")
        self._raw = assignment
        self._assigned = read_assignment(assignment)
        self._settings = FleetSettings.model_validate_json(self._assigned.settings)
        self._node = node_address()
        self._clock = RealClock()
        self._fleet: LocalFleet | None = None
        self._members: list[Any] = []
        self._joined: dict[int, str] = {0: self._node}
        self._life: asyncio.Task[None] | None = None
        self._over: Phase | None = None
        self._why = ""
        self._stopping_at_s: float | None = None
        self._count = EngineCount(self._clock, self._settings.timeouts.settle_s)

    async def report(self) -> bytes:
        """Return a ``Report``, encoded."""
        if self._life is None:
            self._life = asyncio.create_task(self._live(), name="life")
        return encode(self._report())

    async def logs(self, lines: int) -> str:
        """Return the last lines of the engine's log."""
        units = self._fleet.status() if self._fleet is not None else []
        return await asyncio.to_thread(log_tail, units[0].log, lines) if units else ""

    async def stop(self) -> None:
        """Wait until the engine has nothing in hand, within its limit, then end it."""
        if self._stopping_at_s is None:
            self._stopping_at_s = self._clock.now_s()
            if self._fleet is not None:
                await self._fleet.stop()
            if self._life is not None:
                self._life.cancel()
            self._over = Phase.STOPPED

    async def _live(self) -> None:
        """Gather the nodes, run the engine, and say how it ended."""
        try:
            group = await self._gathered()
            if self._stopping_at_s is None:
                await self._serve(group)
        except FleetFailed as error:
            several = self._settings.nodes > 1
            await self._end(Phase.BROKEN if several else Phase.FAILED, str(error))
        except HeadraceError as error:
            await self._end(Phase.FAILED, str(error))
        except (ray.exceptions.RayError, TimeoutError) as error:
            await self._end(Phase.BROKEN, f"a node of the replica was lost: {error}")

    async def _gathered(self) -> Group | None:
        """Have every other node answer; return the group that they form, or None when alone.

        Raises:
            RayError: when one is lost.
            TimeoutError: when one does not answer in the time that an engine has to start.

        """
        count = self._settings.nodes
        if count == 1:
            return None
        placed = await asyncio.to_thread(ray.util.get_placement_group, self._assigned.name)
        make: Any = ray.remote(Member)
        self._members = [
            make.options(
                num_cpus=self._settings.ray.cpus_per_node,
                num_gpus=cards_per_node(self._settings),
                resources=self._settings.ray.resources,
                scheduling_strategy=PlacementGroupSchedulingStrategy(placed, rank),
            ).remote()
            for rank in range(1, count)
        ]
        async with asyncio.timeout(self._settings.timeouts.start_s):
            await asyncio.gather(*(self._join(rank) for rank in range(1, count)))
        return Group(count, self._node, free_ports(1)[0])

    async def _join(self, rank: int) -> None:
        self._joined[rank] = str(await self._members[rank - 1].join.remote())
        _log.info("node_joined", rank=rank, node=self._joined[rank])

    async def _serve(self, group: Group | None) -> None:
        """Run the engine until it is given up or another node's share ends.

        Raises:
            FleetFailed: when it is given up.
            RayError: when a node is lost.

        """
        own = own_settings(self._settings, self._assigned.index, gpu_ids())
        self._fleet = fleet = LocalFleet(
            own, inflight=self._busy, planner=planner(self._settings, self._node, group)
        )
        self._count.watch(fleet.source)
        await fleet.start()
        parts: list[asyncio.Task[object]] = [asyncio.create_task(_wait(fleet.wait_failed()))]
        for rank, member in enumerate(self._members, start=1):
            ended = member.run.remote(self._raw, group, rank)
            parts.append(asyncio.create_task(_wait(ended)))
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                raise FleetFailed(str(part.result()))
        finally:
            for part in parts:
                part.cancel()

    async def _end(self, phase: Phase, why: str) -> None:
        _log.error("replica_" + phase, why=why)
        self._why = why
        self._over = phase
        if phase is Phase.BROKEN and self._fleet is not None:
            self._stopping_at_s = self._clock.now_s()
            await self._fleet.stop()

    def _busy(self, endpoint_id: EndpointId) -> int:
        """Return what the engine has in hand; a broken one nothing that could end well."""
        return 0 if self._over is not None else self._count(endpoint_id)

    def _view(self, endpoint_id: EndpointId) -> EndpointView | None:
        found = self._fleet.source.endpoints() if self._fleet is not None else []
        return next((view for view in found if view.endpoint_id == endpoint_id), None)

    def _report(self) -> Report:
        joined = tuple(self._joined[rank] for rank in sorted(self._joined))
        base = Report(
            phase=self._over or Phase.GATHERING,
            node=self._node,
            joined=len(joined),
            members=joined,
            why=self._why,
        )
        units = self._fleet.status() if self._fleet is not None else []
        if not units:
            return base
        (unit,) = units
        return Report(
            phase=self._over or _PHASES[unit.state],
            node=self._node,
            engine=self._engine(unit.endpoints) if self._over is None else None,
            pid=unit.pid,
            joined=len(joined),
            members=joined,
            crashes=unit.crashes,
            why=self._why or unit.why,
            log=str(unit.log),
        )

    def _engine(self, endpoints: Sequence[EndpointId]) -> Engine | None:
        view = self._view(endpoints[0]) if endpoints else None
        if view is None:
            return None
        events = view.kv_events
        return Engine(
            life=str(view.endpoint_id),
            url=view.url,
            role=view.role.value,
            simulated=view.simulated,
            events=events.events if events is not None else None,
            replay=events.replay if events is not None else None,
            topic=events.topic if events is not None else "",
            models=view.models[:1],
            speed=view.speed,
        )


async def _wait(awaited: Awaitable[object]) -> object:
    """Make a task of anything that can be awaited, such as a reference of Ray's."""
    return await awaited
