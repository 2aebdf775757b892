"""Keeps one engine process running: start, ready, crash, start again. Touches processes and time.

A unit is one process and the endpoints it serves: one for vLLM, many for the simulated engine.
Each life of a process gives its endpoints new ids, because whoever knew the old ones knew of caches
that are gone.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from controller.fleets.config import FleetTimeouts
from controller.fleets.restart import RestartPolicy
from controller.fleets.spawn import Spawner, SpawnFailed, log_tail
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView, Health, KvEventSource, Role, Speed
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.discovery import ListSource
from headrace.runtime.engines.launch import Launch
from headrace.runtime.probe import Prober
from headrace.service.log import get_logger

_log = get_logger("fleet")

DRAIN_TICK_S: Final = 0.05
CRASHES_KEPT: Final = 1_000


class UnitState(StrEnum):
    """Where a unit is in its life."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Recipe(Protocol):
    """How to make one life of a unit."""

    def __call__(self, life: str) -> Launch:
        """Return the process to start, with ports that are free now; ``life`` is unique."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all units of a fleet share.

    Attributes:
        spawner: Returns the parent of the engines, started if need be.
        source: The list that the units write.
        prober: What looking at that list shows.
        starting: Held by each unit while its engine starts.
        inflight: Requests in flight at an endpoint; asked once it is announced as draining.
        speed: What is presumed of an endpoint until it has been measured.

    """

    spawner: Callable[[], Awaitable[Spawner]]
    source: ListSource
    prober: Prober
    clock: Clock
    starting: asyncio.Semaphore
    inflight: Callable[[EndpointId], int]
    restart: RestartPolicy
    timeouts: FleetTimeouts
    model: ModelName
    speed: Speed
    directory: Path


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """One unit as it is now; ``pid`` and ``endpoints`` are of its present life.

    ``node`` is the address of the machine that it runs on, where that may be another one.
    """

    name: str
    state: UnitState
    pid: int | None
    endpoints: tuple[EndpointId, ...]
    kv_events: tuple[KvEventSource, ...]
    log: Path
    crashes: int
    why: str
    node: str = ""


class Unit:
    """One process, kept running by ``run()`` until ``stop()``."""

    def __init__(
        self, name: str, recipe: Recipe, around: Surroundings, changed: Callable[[], None]
    ) -> None:
        self._name = name
        self._recipe = recipe
        self._around = around
        self._changed = changed
        self._log_path = around.directory / f"{name}.log"
        self._crashes_at_s: deque[float] = deque(maxlen=CRASHES_KEPT)
        self._ever_ready = False
        self._stopping = False
        self._life = name
        self._log_from = 0
        self._spawner: Spawner | None = None
        self._exit: asyncio.Task[int] | None = None
        self._status = UnitStatus(name, UnitState.STARTING, None, (), (), self._log_path, 0, "")

    def status(self) -> UnitStatus:
        """Return how it is now."""
        return self._status

    async def run(self) -> None:
        """Live, crash and live again until told to stop or out of attempts."""
        life = 0
        while True:
            why = await self._live(self._name if life == 0 else f"{self._name}.{life}")
            life += 1
            if self._stopping:
                self._set(state=UnitState.STOPPED)
                return
            now_s = self._around.clock.now_s()
            self._crashes_at_s.append(now_s)
            delay_s = self._around.restart.delay_s(
                self._crashes_at_s, now_s, ever_ready=self._ever_ready
            )
            self._set(why=why, crashes=self._status.crashes + 1)
            if delay_s is None:
                _log.error("engine_given_up", unit=self._name, why=why)
                self._set(state=UnitState.FAILED)
                return
            _log.warning("engine_crashed", unit=self._name, why=why, restart_in_s=delay_s)
            self._set(state=UnitState.BACKING_OFF)
            await self._around.clock.sleep(delay_s)

    async def stop(self) -> None:
        """Drain the endpoints, ask the process to end, and kill its group past the deadline."""
        self._stopping = True
        exit_, spawner = self._exit, self._spawner
        if exit_ is None or spawner is None:
            return
        served = self._status.state is UnitState.READY
        self._set(state=UnitState.STOPPING)
        if served:
            for endpoint_id in self._status.endpoints:
                view = self._around.source.get(endpoint_id)
                if view is not None:
                    self._around.source.put(replace(view, health=Health.DRAINING))
            await self._drained(exit_)
            if await self._ended(spawner, exit_):
                return
        spawner.signal(self._life, signal.SIGKILL, group=True)
        await asyncio.shield(exit_)

    async def _ended(self, spawner: Spawner, exit_: asyncio.Task[int]) -> bool:
        """Ask it to end; return whether it did in the time it has."""
        limit_s = self._around.timeouts.finish_s + self._around.timeouts.kill_after_s
        spawner.signal(self._life, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(exit_), limit_s)
            return True
        _log.warning("engine_killed", unit=self._name, after_s=limit_s)
        return False

    async def _drained(self, exit_: asyncio.Task[int]) -> None:
        """Wait until nothing is in flight there, for as long as is allowed."""
        clock = self._around.clock
        until_s = clock.now_s() + self._around.timeouts.drain_s
        while not exit_.done() and clock.now_s() < until_s:
            # All are asked each time: whoever counts may have to watch each for a while.
            if not sum(self._around.inflight(id_) for id_ in self._status.endpoints):
                return
            await clock.sleep(DRAIN_TICK_S)

    async def _live(self, life: str) -> str:
        """Run one process from start to end; return why it ended."""
        self._life = life
        self._set(state=UnitState.STARTING)
        try:
            async with self._around.starting:
                if self._stopping:
                    return "stopped before it was started"
                why = await self._start(life)
                if why is not None:
                    return why
            self._ever_ready = True
            self._set(state=UnitState.READY)
            return await self._serve()
        except SpawnFailed as error:
            return str(error)
        finally:
            for endpoint_id in self._status.endpoints:
                self._around.source.remove(endpoint_id)
            self._exit = None
            self._set(pid=None, endpoints=(), kv_events=())

    async def _start(self, life: str) -> str | None:
        """Start the process and wait until it serves; return why it does not, or None."""
        spawner = await self._around.spawner()
        launch = self._recipe(life)
        argv = [*launch.program, *launch.args]
        self._log_from = self._log_path.stat().st_size if self._log_path.exists() else 0
        pid = await spawner.spawn(
            life, argv, launch.env, log=self._log_path, cwd=self._around.directory
        )
        self._spawner = spawner
        self._exit = asyncio.create_task(spawner.exited(life), name=f"exit-{life}")
        ids = self._announce(life, launch)
        self._set(pid=pid, endpoints=ids, kv_events=launch.kv_events)
        _log.info("engine_started", unit=self._name, pid=pid, ports=launch.ports)
        ready = asyncio.create_task(self._ready(ids))
        try:
            await asyncio.wait(
                (ready, self._exit),
                timeout=self._around.timeouts.start_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ready.done() and not self._exit.done():
                return None
            if not self._exit.done():
                spawner.signal(life, signal.SIGKILL, group=True)
                await asyncio.shield(self._exit)
                limit_s = self._around.timeouts.start_s
                return (
                    f"not ready within {limit_s} s{log_tail(self._log_path, since=self._log_from)}"
                )
            return self._told(self._exit.result())
        finally:
            ready.cancel()

    async def _serve(self) -> str:
        """Wait for the end of an engine that serves; kill it when it hangs. Return why it ended."""
        assert self._exit is not None
        assert self._spawner is not None
        hung = asyncio.create_task(self._hung(self._status.endpoints))
        try:
            await asyncio.wait((hung, self._exit), return_when=asyncio.FIRST_COMPLETED)
            if self._exit.done():
                return self._told(self._exit.result())
            self._spawner.signal(self._life, signal.SIGKILL, group=True)
            await asyncio.shield(self._exit)
            return f"it hung: nothing ready for {self._around.timeouts.unready_s} s"
        finally:
            hung.cancel()

    async def _hung(self, ids: tuple[EndpointId, ...]) -> None:
        """Return once none of the endpoints has been ready for too long without a break."""
        prober = self._around.prober
        while True:
            while any(_is(prober.get(endpoint_id), Health.READY) for endpoint_id in ids):
                await prober.changed()
            back = asyncio.create_task(self._any_ready(ids))
            try:
                async with asyncio.timeout(self._around.timeouts.unready_s):
                    await back
            except TimeoutError:
                if not self._stopping:
                    return
            finally:
                back.cancel()

    async def _any_ready(self, ids: tuple[EndpointId, ...]) -> None:
        prober = self._around.prober
        while not any(_is(prober.get(endpoint_id), Health.READY) for endpoint_id in ids):
            await prober.changed()

    def _announce(self, life: str, launch: Launch) -> tuple[EndpointId, ...]:
        """List its endpoints; the prober says when each is ready."""
        many = len(launch.ports) > 1
        ids = []
        for index, port in enumerate(launch.ports):
            endpoint_id = EndpointId(f"{life}-{index}" if many else life)
            ids.append(endpoint_id)
            events = launch.kv_events[index] if launch.kv_events else None
            self._around.source.put(
                EndpointView(
                    endpoint_id,
                    f"http://{launch.host}:{port}",
                    (self._around.model,),
                    role=launch.roles[index] if launch.roles else Role.BOTH,
                    speed=self._around.speed,
                    kv_events=events,
                    simulated=launch.simulated,
                )
            )
        return tuple(ids)

    async def _ready(self, ids: tuple[EndpointId, ...]) -> None:
        prober = self._around.prober
        while True:
            if all(_is(prober.get(endpoint_id), Health.READY) for endpoint_id in ids):
                return
            await prober.changed()

    def _told(self, code: int) -> str:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"it ended with {how}{log_tail(self._log_path, since=self._log_from)}"

    def _set(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)  # type: ignore[arg-type]
        self._changed()


def _is(view: EndpointView | None, health: Health) -> bool:
    return view is not None and view.health is health
