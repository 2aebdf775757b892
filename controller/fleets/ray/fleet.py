"""A fleet of replicas on a Ray cluster, planned from what is seen. Talks to Ray and to engines.

async with RayFleet(settings, inflight=router.inflight) as fleet:
    await fleet.wait_ready()
    ...fleet.source...
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from random import Random
from types import TracebackType
from typing import Final, Self

import aiohttp

from controller.fleets.config import FleetSettings
from controller.fleets.protocol import FleetFailed
from controller.fleets.ray.cluster import ClusterSilent, RayCluster
from controller.fleets.ray.names import ReplicaName
from controller.fleets.ray.plan import Action, Create, Desired, Drain, Phase, Seen, plan
from controller.fleets.ray.recipe import settled
from controller.fleets.ray.reports import Assignment
from controller.fleets.ray.shape import demand, revision, why_waiting
from controller.fleets.ray.sight import Limits, Sight, endpoint_of, status_of
from controller.fleets.ray.watch import Watch
from controller.fleets.unit import UnitState, UnitStatus
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView, Health
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.discovery import EndpointSource, ListSource
from headrace.runtime.probe import Prober, probe_limits
from headrace.service.clock import RealClock
from headrace.service.http import make_session
from headrace.service.log import get_logger

_log = get_logger("fleet")

DRAIN_TICK_S: Final = 0.05
LOSSES_KEPT: Final = 1_000


class RayFleet:
    """N replicas, each with a detached supervisor in a placement group of its own.

    Replicas of this fleet's name that run already, with the same settings, are taken over; others
    are replaced. ``source`` and ``inflight`` are as in ``LocalFleet``. All methods belong to one
    event loop.
    """

    def __init__(
        self,
        settings: FleetSettings,
        *,
        inflight: Callable[[EndpointId], int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings = settled(settings)
        self._inflight = inflight or (lambda _: 0)
        self._clock = clock or RealClock()
        self._cluster = RayCluster(settings.ray.call_s)
        self._given = ListSource()
        self._published = ListSource()
        seen = Limits(settings.ray.lost_after_s, settings.timeouts.start_s)
        self._watch = Watch(self._cluster, settings.ray.name, seen, self._clock)
        self._losses_at_s: dict[int, deque[float]] = {}
        self._not_before_s: dict[int, float] = {}
        self._ever_ready: set[int] = set()
        self._last_why: dict[int, str] = {}
        self._made: deque[ReplicaName] = deque(maxlen=LOSSES_KEPT)
        self._tasks: list[asyncio.Task[None]] = []
        self._drains: dict[ReplicaName, asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None
        self._news = asyncio.Event()
        self._broken: BaseException | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def source(self) -> EndpointSource:
        """The fleet's endpoints."""
        return self._published

    def status(self) -> list[UnitStatus]:
        """Return each incarnation of a replica as last seen, and each replica that has none."""
        found = [
            status_of(sight, self._endpoint(sight)) for _, sight in sorted(self._sights.items())
        ]
        have = {name.index for name in self._sights}
        lacking = [index for index in range(self._settings.replicas) if index not in have]
        return found + [self._lacking(index) for index in lacking]

    async def start(self) -> None:
        """Join the cluster and begin; ``wait_ready`` says when all serve.

        Raises:
            ConfigError: when there is no cluster at the address.

        """
        assert self._session is None, "a fleet starts once"
        settings = self._settings
        await self._cluster.connect(settings.ray.address)
        self._session = make_session(probe_limits(settings.probe, settings.replicas))
        prober = Prober(
            self._given, self._session, settings.probe, self._clock, Random(), self._published
        )
        self._run("probe", prober.run())
        self._run("keep", self._keep())

    async def wait_ready(self) -> None:
        """Return when every replica serves, or has been given up while another serves.

        Raises:
            FleetFailed: when all have been given up.

        """
        while True:
            self._news.clear()
            states = {status.state for status in self.status()}
            if states <= {UnitState.READY, UnitState.FAILED} and UnitState.READY in states:
                return
            self._raise_if_failed()
            await self._news.wait()

    async def wait_failed(self) -> None:
        """Never return; raise when the fleet cannot go on.

        Raises:
            FleetFailed: when every replica has been given up.

        """
        while True:
            self._news.clear()
            self._raise_if_failed()
            await self._news.wait()

    async def stop(self) -> None:
        """Drain and end every replica, unless they are to be kept; then leave the cluster."""
        session, self._session = self._session, None
        if session is None:
            return
        keeping = self._tasks.pop()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        try:
            if not self._settings.ray.keep:
                with suppress(ClusterSilent):
                    await self._observe()
                await asyncio.gather(*(self._end(name) for name in list(self._sights)))
        finally:
            for task in (*self._tasks, *self._drains.values()):
                task.cancel()
            await asyncio.gather(*self._tasks, *self._drains.values(), return_exceptions=True)
            await session.close()
            await self._cluster.close()

    async def _end(self, name: ReplicaName) -> None:
        self._drain(name)
        await asyncio.gather(self._drains[name], return_exceptions=True)
        with suppress(ClusterSilent):
            await self._cluster.remove(name)

    async def _keep(self) -> None:
        """Look, plan and act, again and again. A cluster that does not answer changes nothing."""
        while True:
            try:
                await self._observe()
                for action in plan(self._desired(), self._seen(), self._clock.now_s()):
                    await self._act(action)
            except ClusterSilent as error:
                _log.warning("ray_silent", why=str(error))
            self._news.set()
            await self._clock.sleep(self._settings.ray.period_s)

    def _desired(self) -> Desired:
        settings, limits = self._settings, self._settings.timeouts
        return Desired(
            fleet=settings.ray.name,
            revisions=tuple(revision(settings, index) for index in range(settings.replicas)),
            surge_wait_s=settings.ray.surge_wait_s,
            drain_limit_s=self._stop_limit_s() + limits.drain_s + settings.ray.call_s,
            not_before_s=self._not_before_s,
        )

    @property
    def _sights(self) -> dict[ReplicaName, Sight]:
        return self._watch.sights

    def _seen(self) -> list[Seen]:
        """Return what to plan from; what was proven just now is so to us, not yet to gateways."""
        proven_by_s = self._clock.now_s() - self._settings.timeouts.settle_s
        return [sight.seen(proven_by_s) for sight in self._sights.values()]

    async def _observe(self) -> None:
        """Look at every incarnation of this fleet once, and list its endpoints.

        Raises:
            ClusterSilent: when Ray does not answer.

        """
        before = await self._watch.look()
        now_s = self._clock.now_s()
        for name, sight in self._sights.items():
            self._sights[name] = self._proven(sight, now_s)
            self._notice(before.get(name), self._sights[name], now_s)
        for name in before.keys() - self._sights.keys():
            if before[name].phase not in (Phase.LOST, Phase.BROKEN, Phase.STOPPED):
                self._lost(before[name], now_s)
        await self._explain_waiting()
        self._list_endpoints()

    def _proven(self, sight: Sight, now_s: float) -> Sight:
        view = self._endpoint(sight)
        found = None if view is None else self._published.get(view.endpoint_id)
        if sight.proven or found is None or found.health is not Health.READY:
            return sight
        return replace(sight, proven=True, proven_at_s=now_s)

    def _notice(self, before: Sight | None, now: Sight, now_s: float) -> None:
        """Log what is new, and count losses."""
        if now.serves:
            self._ever_ready.add(now.name.index)
        if before is not None and before.phase is now.phase:
            return
        adopted = before is None and now.name not in self._made
        told = _log.warning if now.phase in (Phase.LOST, Phase.BROKEN) else _log.info
        told(
            "replica_adopted" if adopted else f"replica_{now.phase}",
            replica=now.name.short,
            phase=now.phase,
            pid=now.report.pid if now.report else None,
            node=now.report.node if now.report else None,
            why=now.why,
        )
        if now.phase in (Phase.LOST, Phase.BROKEN):
            self._lost(now, now_s)

    def _lost(self, sight: Sight, now_s: float) -> None:
        """Set when its replica may be made anew; one whose engine keeps failing is given up."""
        if sight.draining_since_s is not None:
            return
        index = sight.name.index
        losses = self._losses_at_s.setdefault(index, deque(maxlen=LOSSES_KEPT))
        losses.append(now_s)
        restart = self._settings.restart
        delay_s = restart.policy().delay_s(losses, now_s, ever_ready=index in self._ever_ready)
        if delay_s is None:
            delay_s = math.inf if sight.phase is Phase.BROKEN else restart.most_s
        self._not_before_s[index] = now_s + delay_s
        self._last_why[index] = sight.why

    async def _explain_waiting(self) -> None:
        waiting = [name for name, sight in self._sights.items() if sight.phase is Phase.WAITING]
        if not waiting:
            return
        nodes, free = await self._cluster.room()
        why = why_waiting(demand(self._settings), nodes, free)
        for name in waiting:
            sight = self._sights[name]
            if sight.why != why:
                _log.warning("replica_has_no_room", replica=name.short, why=why)
            self._sights[name] = replace(sight, why=why)

    def _list_endpoints(self) -> None:
        views = [self._endpoint(sight) for sight in self._sights.values()]
        self._given.replace(view for view in views if view is not None)

    def _endpoint(self, sight: Sight) -> EndpointView | None:
        return endpoint_of(sight, ModelName(self._settings.name_served), self._settings.speed)

    async def _act(self, action: Action) -> None:
        """Do it.

        Raises:
            ClusterSilent: when Ray does not answer.

        """
        if isinstance(action, Create):
            token = uuid.uuid4().hex[:6]
            name = ReplicaName(self._settings.ray.name, action.index, action.revision, token)
            asked = demand(self._settings)
            text = self._settings.model_dump_json()
            _log.info("replica_created", replica=name.short, asks=[dict(b) for b in asked.bundles])
            self._made.append(name)
            await self._cluster.create(name, asked, Assignment(str(name), action.index, text))
        elif isinstance(action, Drain):
            self._drain(action.name)
        else:
            _log.info("replica_removed", replica=action.name.short)
            await self._cluster.remove(action.name)

    def _drain(self, name: ReplicaName) -> None:
        if name in self._drains:
            return
        _log.info("replica_draining", replica=name.short)
        now_s = self._clock.now_s()
        self._sights[name] = replace(self._sights[name], draining_since_s=now_s)
        self._list_endpoints()
        task = asyncio.create_task(self._drained(self._sights[name]), name=f"drain-{name.short}")
        self._drains[name] = task
        task.add_done_callback(lambda _: self._drains.pop(name, None))

    async def _drained(self, sight: Sight) -> None:
        """Wait until nothing of ours is in flight there, then have its supervisor end it."""
        view = self._endpoint(sight)
        until_s = self._clock.now_s() + self._settings.timeouts.drain_s
        while view is not None and self._clock.now_s() < until_s:
            if not self._inflight(view.endpoint_id):
                break
            await self._clock.sleep(DRAIN_TICK_S)
        if sight.phase is not Phase.WAITING:
            await self._cluster.stop(sight.name, self._stop_limit_s())
        with suppress(ClusterSilent):
            await self._cluster.remove(sight.name)

    def _stop_limit_s(self) -> float:
        limits = self._settings.timeouts
        return limits.drain_s + limits.finish_s + limits.kill_after_s + self._settings.ray.call_s

    def _lacking(self, index: int) -> UnitStatus:
        given_up = math.isinf(self._not_before_s.get(index, 0.0))
        status = status_of(
            Sight(ReplicaName(self._settings.ray.name, index, "", "none"), Phase.WAITING, 0.0), None
        )
        state = UnitState.FAILED if given_up else UnitState.BACKING_OFF
        return replace(status, state=state, why=self._last_why.get(index, ""))

    def _run(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"fleet-{name}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Report a task of ours that failed, which is a bug: nothing is watched any more."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("fleet_task_failed", task=task.get_name(), exc_info=error)
            self._broken = error
        self._news.set()

    def _raise_if_failed(self) -> None:
        if self._broken is not None:
            raise FleetFailed("the fleet's own supervision failed") from self._broken
        units = self.status()
        if units and all(unit.state is UnitState.FAILED for unit in units):
            raise FleetFailed(
                "no engine runs and none will be started again\n"
                + "\n".join(f"  {unit.name} ({unit.node}:{unit.log}): {unit.why}" for unit in units)
            )
