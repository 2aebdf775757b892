"""What ``headrace gateway`` does: a gateway in this process over engines that others run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Final

import uvloop

from gateway.process import Lines, run_gateway
from headrace.cli.config import FrontSettings
from headrace.cli.ending import say, stop_on_signals
from headrace.cli.finding import Found, found
from headrace.cli.serving import announcement, configure_log, ready
from headrace.core.endpoint import Health
from headrace.core.errors import ConfigError
from headrace.runtime.config import MAX_LISTED
from headrace.runtime.probe import Prober, probe_limits
from headrace.service.clock import RealClock
from headrace.service.http import make_session
from headrace.service.log import get_logger
from headrace.service.settings import describe, load_settings
from headrace.service.tasks import Restart, Tasks

_log = get_logger("gateway")

FIRST_LOOK_S: Final = 20.0
"""Longest wait for endpoints that are ready to prove themselves to us before we listen. A third of
the time that the chart's startup probe gives us."""


def run(config: Path | None, flags: Mapping[str, object]) -> bool:
    """Serve until SIGINT or SIGTERM; returns whether that is how it ended.

    Args:
        config: Settings file, or None for the defaults.
        flags: Options by dotted field; they win over the file.

    Raises:
        ConfigError: if a setting is wrong, no engine is named, or no cluster is found.

    """
    settings = load_settings(FrontSettings, config, flags)
    if settings.discovery.kind == "list" and not settings.endpoints:
        raise ConfigError(
            "endpoints: name at least one engine, here or with --endpoint; or find them with "
            "--endpoints-file, --socket, --ray or --kube"
        )
    lines = configure_log(settings.log)
    _log.info("settings", effective=describe(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, lines))


async def _serve(settings: FrontSettings, lines: Lines | None) -> bool:
    stop = asyncio.Event()
    stop_on_signals(stop)
    async with found(settings) as engines:
        await _Front(settings, engines, stop).run(lines)
    return stop.is_set()


class _Front:
    """A gateway over what a source lists; engines that are down are waited for."""

    def __init__(self, settings: FrontSettings, engines: Found, stop: asyncio.Event) -> None:
        self._settings = settings
        self._engines = engines
        self._stop = stop

    async def run(self, lines: Lines | None) -> None:
        """Serve until told to stop, or cancelled after that."""
        settings, clock = self._settings, RealClock()
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        engines = self._engines
        most = MAX_LISTED if engines.followed else len(settings.endpoints)
        session = make_session(
            probe_limits(settings.probe, most), key=settings.gateway.upstream.key
        )
        prober = Prober(engines.source, session, settings.probe, clock, Random())
        try:
            async with Tasks(clock) as tasks:
                tasks.start("probe", prober.run, restart=Restart())
                tasks.start("announce", lambda: self._announce(prober, url))
                for name, work in engines.tasks:
                    tasks.start(name, work, restart=Restart())
                if engines.followed:
                    await self._or_stop(_first_look(engines, prober))
                await run_gateway(
                    settings.gateway,
                    settings.router.router(),
                    prober,
                    ready=url.set_result,
                    stop=self._stop,
                    lines=lines,
                    adapters=engines.adapters,
                )
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        except ExceptionGroup as failed:
            raise _only(failed) from None
        finally:
            await session.close()

    async def _or_stop(self, work: asyncio.Task[None]) -> None:
        """Wait until work is done or we are to stop."""
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            stopping.cancel()

    async def _announce(self, prober: Prober, url: asyncio.Future[str]) -> None:
        """Say where we listen, what to send there once an engine is ready, and when all are."""
        at, count = await url, len(self._settings.endpoints)
        say(f"Headrace listens at {at} and looks for {self._engines.place}.")
        first = await ready(prober, 1)
        say(announcement(at, first[0], self._settings.gateway, "the gateway"))
        if not self._engines.followed:
            await ready(prober, count)
            say(f"{count} of {count} endpoints are ready.")


def _only(error: Exception) -> Exception:
    """Return the one error inside groups of one, so that it can be told in a line."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _first_look(engines: Found, prober: Prober) -> asyncio.Task[None]:
    """Wait until all endpoints are known, and those that are ready have shown it to us, too.

    A gateway that listened earlier would refuse requests that another replica still serves. The
    list is waited for as long as it takes: who knows no endpoint has nothing to serve. Adapters
    are not: without them models are still served.
    """

    def unproven() -> bool:
        known = {view.endpoint_id: view.health for view in prober.endpoints()}
        return any(
            view.health is Health.READY and known.get(view.endpoint_id) is not Health.READY
            for view in engines.source.endpoints()
        )

    async def look() -> None:
        if engines.synced is not None:
            await engines.synced()
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                while unproven():
                    await prober.changed()
                if engines.adapters is not None:
                    await engines.adapters.synced()
        except TimeoutError:
            what = "endpoints_unproven" if unproven() else "adapters_unknown"
            _log.warning(what, after_s=FIRST_LOOK_S)

    return asyncio.create_task(look())
