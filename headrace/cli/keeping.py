"""What ``headrace fleet`` does: keeps engines running for gateways that run apart."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import uvloop

from controller.fleets.config import FleetKind
from controller.fleets.quiet import EngineCount
from headrace.cli.config import KeepSettings
from headrace.cli.ending import say, stop_on_signals
from headrace.cli.served import fleet_with_documents, refuse_decided
from headrace.cli.serving import configure_log, fleet_of, ready, served
from headrace.core.errors import ConfigError
from headrace.runtime.publish import Publisher, PublishLimits
from headrace.service.clock import RealClock
from headrace.service.log import get_logger
from headrace.service.settings import describe, load_settings


def run(config: Path | None, flags: Mapping[str, object], models: Path | None = None) -> bool:
    """Keep a fleet until SIGINT or SIGTERM; returns whether that is how it ended.

    Args:
        config: Settings file, or None for the defaults.
        flags: Options by dotted field; they win over the file.
        models: File with a ModelService; it wins over both.

    Raises:
        ConfigError: if a setting is wrong or the engine cannot be started here.

    """
    settings = load_settings(KeepSettings, config, flags)
    unused: list[str] = []
    if models is not None:
        refuse_decided(flags)
        settings, unused = served(settings, models, fleet_with_documents)
    if settings.fleet.kind is FleetKind.LOCAL and settings.publish.socket is None:
        raise ConfigError(
            "publish.socket: needed with fleet.kind local, here or with --socket: gateways would "
            "find no engine"
        )
    configure_log(settings.log)
    if unused:
        get_logger("fleet").info("ignored, not for a fleet alone", fields=unused)
    get_logger("fleet").info("settings", effective=describe(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Keep(settings).run())


class _Keep:
    """One fleet and who tells of it, and the order in which they start and stop."""

    def __init__(self, settings: KeepSettings) -> None:
        self._settings = settings
        count = EngineCount(RealClock(), settings.fleet.timeouts.settle_s)
        # On Ray it is the supervisors that wait for their engines to be quiet.
        on_ray = settings.fleet.kind is FleetKind.RAY
        self._fleet = fleet_of(settings.fleet, (lambda _: 0) if on_ray else count)
        count.watch(self._fleet.source)
        limits = PublishLimits(readers=settings.publish.readers)
        path = settings.publish.socket
        self._publisher = None if path is None else Publisher(path, self._fleet.source, limits)
        self._stop = asyncio.Event()

    async def run(self) -> bool:
        """Tell of the fleet from before it starts until it has ended."""
        stop_on_signals(self._stop)
        if self._publisher is not None:
            self._publisher.open()
        telling = asyncio.create_task(self._tell(), name="publish")
        try:
            await self._keep(telling)
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            if self._publisher is not None:
                self._publisher.close()
        return self._stop.is_set()

    async def _keep(self, telling: asyncio.Task[None]) -> None:
        """Run the fleet until it is to stop, or it or the telling of it fails."""
        parts = (
            telling,
            asyncio.create_task(self._run_fleet(), name="fleet"),
            asyncio.create_task(self._announce(), name="announce"),
            asyncio.create_task(_wait(self._stop), name="stop"),
        )
        waited = {part for part in parts if part.get_name() != "announce"}
        try:
            done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts[1:]:
                part.cancel()
            await asyncio.gather(*parts[1:], return_exceptions=True)
            await self._fleet.stop()

    async def _tell(self) -> None:
        if self._publisher is None:
            await asyncio.get_running_loop().create_future()
        else:
            await self._publisher.run()

    async def _run_fleet(self) -> None:
        await self._fleet.start()
        await self._fleet.wait_failed()

    async def _announce(self) -> None:
        """Say how gateways find the engines, and when those serve."""
        settings = self._settings
        ways = []
        if settings.publish.socket is not None:
            ways.append(f"  headrace gateway --socket {settings.publish.socket}\n")
        if settings.fleet.kind is FleetKind.RAY:
            ray = settings.fleet.ray
            ways.append(f"  headrace gateway --ray {ray.address} --fleet-name {ray.name}\n")
        say(f"Gateways find the engines of {settings.fleet.name_served} with\n\n" + "".join(ways))
        say("Ctrl-C lets open streams end, and stops the engines.")
        await ready(self._fleet.source, settings.fleet.replicas)
        say(f"{settings.fleet.replicas} of {settings.fleet.replicas} endpoints are ready.")


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()
