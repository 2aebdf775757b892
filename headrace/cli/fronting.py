"""What ``headrace gateway`` does: a gateway in this process over engines that others run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from random import Random

import uvloop

from gateway.process import Lines, run_gateway
from headrace.cli.config import FrontSettings
from headrace.cli.ending import say, stop_on_signals
from headrace.cli.serving import announcement, configure_log, ready
from headrace.core.errors import ConfigError
from headrace.runtime.discovery import StaticSource
from headrace.runtime.probe import Prober, probe_limits
from headrace.service.clock import RealClock
from headrace.service.http import make_session
from headrace.service.log import get_logger
from headrace.service.settings import describe, load_settings
from headrace.service.tasks import Restart, Tasks


def run(config: Path | None, flags: Mapping[str, object]) -> bool:
    """Serve until SIGINT or SIGTERM; returns whether that is how it ended.

    Args:
        config: Settings file, or None for the defaults.
        flags: Options by dotted field; they win over the file.

    Raises:
        ConfigError: if a setting is wrong, or no engine is named.

    """
    settings = load_settings(FrontSettings, config, flags)
    if not settings.endpoints:
        raise ConfigError("endpoints: name at least one engine, here or with --endpoint")
    lines = configure_log(settings.log)
    get_logger("gateway").info("settings", effective=describe(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, lines))


async def _serve(settings: FrontSettings, lines: Lines | None) -> bool:
    """Look at the engines and serve; engines that are down are waited for."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    clock = RealClock()
    source = StaticSource(endpoint.view() for endpoint in settings.endpoints)
    session = make_session(
        probe_limits(settings.probe, len(settings.endpoints)), key=settings.gateway.upstream.key
    )
    prober = Prober(source, session, settings.probe, clock, Random())
    try:
        async with Tasks(clock) as tasks:
            tasks.start("probe", prober.run, restart=Restart())
            tasks.start("announce", lambda: _announce(settings, prober, url))
            await run_gateway(
                settings.gateway,
                settings.router.router(),
                prober,
                ready=url.set_result,
                stop=stop,
                lines=lines,
            )
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        await session.close()
    return stop.is_set()


async def _announce(settings: FrontSettings, prober: Prober, url: asyncio.Future[str]) -> None:
    """Say where we listen, what to send there once an engine is ready, and when all are."""
    at, count = await url, len(settings.endpoints)
    say(f"Headrace listens at {at} and looks for {count} engine(s).")
    first = await ready(prober, 1)
    say(announcement(at, first[0], settings.gateway, "the gateway"))
    await ready(prober, count)
    say(f"{count} of {count} endpoints are ready.")
