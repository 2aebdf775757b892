"""A fleet of engines on this machine, started, watched, restarted and stopped. Touches processes.

async with LocalFleet(settings, inflight=router.inflight) as fleet:
    await fleet.wait_ready()
    ...fleet.source...
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final

import aiohttp

from controller.fleets.config import FleetSettings
from controller.fleets.protocol import FleetFailed
from controller.fleets.recipes import FleetPlan, Planner, plan
from controller.fleets.spawn import Spawner, SpawnFailed
from controller.fleets.unit import Surroundings, Unit, UnitState, UnitStatus
from headrace.core.clock import Clock
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.discovery import EndpointSource, ListSource
from headrace.runtime.probe import Prober, probe_limits
from headrace.service.clock import RealClock
from headrace.service.http import make_session
from headrace.service.log import get_logger

_log = get_logger("fleet")

TRIM_PERIOD_S: Final = 60.0
TRIM_KEEPS: Final = 0.25


class LocalFleet:
    """N engines as supervised processes.

    ``source`` lists their endpoints with health, models, speed and load; it is empty before
    ``start``. ``inflight`` says how many requests the gateway has in flight at an endpoint: an
    engine that is to stop gets no new ones and is waited for. ``planner`` turns settings into
    processes. All methods belong to one event loop.
    """

    def __init__(
        self,
        settings: FleetSettings,
        *,
        inflight: Callable[[EndpointId], int] | None = None,
        clock: Clock | None = None,
        planner: Planner = plan,
    ) -> None:
        self._settings = settings
        self._inflight = inflight or (lambda _: 0)
        self._clock = clock or RealClock()
        self._planner = planner
        self._given = ListSource()
        self._published = ListSource()
        self._units: list[Unit] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._opened: _Opened | None = None
        self._spawner: asyncio.Task[Spawner] | None = None
        self._news = asyncio.Event()
        self._broken: BaseException | None = None

    async def __aenter__(self) -> LocalFleet:
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
        """Return each engine process as it is now."""
        return [unit.status() for unit in self._units]

    async def start(self) -> None:
        """Begin starting every engine; ``wait_ready`` says when they serve.

        Raises:
            ConfigError: if the engine is not installed or its model is not there.

        """
        assert self._opened is None, "a fleet starts once"
        settings = self._settings
        state_dir = settings.state_dir or Path(tempfile.mkdtemp(prefix="headrace-"))
        # The path of a Unix socket has at most 107 bytes, which a state folder may exceed.
        run_dir = Path(tempfile.mkdtemp(prefix="hr-"))
        session = make_session(probe_limits(settings.probe, settings.replicas))
        self._opened = opened = _Opened(state_dir.absolute(), run_dir, session)
        opened.state_dir.mkdir(parents=True, exist_ok=True)
        planned = self._planner(settings, opened.state_dir, run_dir)
        prober = Prober(
            self._given,
            session,
            settings.probe,
            self._clock,
            Random(),
            self._published,
        )
        around = Surroundings(
            spawner=lambda: self._open_spawner(planned),
            source=self._given,
            prober=prober,
            clock=self._clock,
            starting=asyncio.Semaphore(settings.starts_at_once),
            inflight=self._inflight,
            restart=settings.restart.policy(),
            timeouts=settings.timeouts,
            model=ModelName(settings.name_served),
            speed=settings.speed,
            directory=opened.state_dir,
        )
        self._units = [
            Unit(name, recipe, around, self._news.set) for name, recipe in planned.recipes.items()
        ]
        self._run("probe", prober.run())
        self._run("trim-logs", self._trim_logs())
        for unit in self._units:
            self._run(unit.status().name, unit.run())

    async def wait_ready(self) -> None:
        """Return when every engine serves, or has been given up while another serves.

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
            FleetFailed: when every engine has been given up.

        """
        while True:
            self._news.clear()
            self._raise_if_failed()
            await self._news.wait()

    async def stop(self) -> None:
        """Drain and end every engine; no process of the fleet is left when this returns."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            await asyncio.gather(*(unit.stop() for unit in self._units))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._close_spawner()
            await opened.session.close()
            shutil.rmtree(opened.run_dir, ignore_errors=True)
            quiet = all(status.crashes == 0 for status in self.status())
            if self._settings.state_dir is None and quiet:
                shutil.rmtree(opened.state_dir, ignore_errors=True)

    def _run(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"fleet-{name}")
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Report a task of ours that failed, which is a bug: its unit will not be watched."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("fleet_task_failed", task=task.get_name(), exc_info=error)
            self._broken = error
        self._news.set()

    def _raise_if_failed(self) -> None:
        if self._broken is not None:
            raise FleetFailed("the fleet's own supervision failed") from self._broken
        units = self.status()
        if units and all(status.state is UnitState.FAILED for status in units):
            raise FleetFailed(
                "no engine runs and none will be started again\n"
                + "\n".join(f"  {status.name} ({status.log}): {status.why}" for status in units)
            )

    async def _open_spawner(self, planned: FleetPlan) -> Spawner:
        """Return the parent of the engines; units that ask at the same time share the opening."""
        current = self._spawner
        if current is not None and current.done() and _is_lost(current):
            current = None
        if current is None:
            assert self._opened is not None
            current = self._spawner = asyncio.create_task(
                Spawner.open(
                    planned.python,
                    planned.spawner_env,
                    self._opened.state_dir / "spawner.log",
                    prefork=self._settings.preforks,
                    timeout_s=self._settings.timeouts.start_s,
                ),
                name="fleet-spawner",
            )
        return await asyncio.shield(current)

    async def _close_spawner(self) -> None:
        current, self._spawner = self._spawner, None
        if current is None:
            return
        if not current.done():
            current.cancel()
        with suppress(asyncio.CancelledError, SpawnFailed):
            await (await current).close()

    async def _trim_logs(self) -> None:
        while True:
            await self._clock.sleep(TRIM_PERIOD_S)
            for status in self.status():
                trim_log(status.log, self._settings.log_limit_bytes)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What ``start`` opened and ``stop`` closes."""

    state_dir: Path
    run_dir: Path
    session: aiohttp.ClientSession


def trim_log(path: Path, limit_bytes: int) -> None:
    """Cut a log that is longer than allowed to its last part, under the process that writes it.

    Lines written meanwhile may be lost. Writers append, so they go on at the new end.
    """
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        if size <= limit_bytes:
            return
        with path.open("r+b") as file:
            file.seek(size - int(limit_bytes * TRIM_KEEPS))
            kept = file.read(int(limit_bytes * TRIM_KEEPS))
            file.seek(0)
            file.write(kept)
            file.truncate()


def _is_lost(opening: asyncio.Task[Spawner]) -> bool:
    return opening.cancelled() or opening.exception() is not None or opening.result().lost
