"""What ``headrace up`` does: a gateway in this process over a fleet it starts and stops."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import uvloop

from controller.api.documents import Documents
from controller.fleets.config import FleetKind, FleetSettings
from controller.fleets.local import LocalFleet
from controller.fleets.protocol import Fleet
from gateway.config import GatewaySettings
from gateway.process import Lines, run_gateway
from headrace.cli.config import LogSettings, UpSettings
from headrace.cli.documents import load
from headrace.cli.ending import say, stop_on_signals
from headrace.cli.served import refuse_decided, with_adapters, with_documents
from headrace.core.endpoint import EndpointView, Health
from headrace.core.errors import ConfigError
from headrace.core.ids import EndpointId
from headrace.runtime.discovery import EndpointSource
from headrace.runtime.engines.launch import EngineKind
from headrace.service.lines import ConsoleLines, JsonLines
from headrace.service.log import configure_logging, get_logger
from headrace.service.settings import describe, load_settings

S = TypeVar("S")


def run(config: Path | None, flags: Mapping[str, object], models: Path | None = None) -> bool:
    """Serve until SIGINT or SIGTERM; returns whether that is how it ended.

    Args:
        config: Settings file, or None for the defaults.
        flags: Options by dotted field; they win over the file.
        models: File with a ModelService; it wins over both.

    Raises:
        ConfigError: if a setting is wrong or the engine cannot be started here.

    """
    settings = load_settings(UpSettings, config, flags)
    unused: list[str] = []
    if models is not None:
        refuse_decided(flags)
        settings, unused = served(settings, models, with_documents)
    settings = with_adapters(settings)
    lines = configure_log(settings.log)
    if unused:
        get_logger("up").info("ignored, for Kubernetes only", fields=unused)
    get_logger("up").info("settings", effective=describe(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Up(settings, lines).run())


def served(
    settings: S, models: Path, filled: Callable[[S, Documents], tuple[S, list[str]]]
) -> tuple[S, list[str]]:
    """Return the settings that serve a file's ModelService, and what of the file is ignored.

    Raises:
        ConfigError: if the file cannot be served.

    """
    documents = load(models)
    if documents is None:
        raise ConfigError(f"{models}: expected documents with apiVersion and kind")
    try:
        return filled(settings, documents)
    except ConfigError as error:
        raise ConfigError(f"{models}: {error}") from None


def configure_log(log: LogSettings) -> Lines | None:
    """Set the log up and return the writer of request lines that matches its form, if any.

    A request line is one of level info.
    """
    as_json = log.form == "json" or (log.form == "auto" and not sys.stderr.isatty())
    configure_logging(json=as_json, level=log.level)
    if log.level not in ("debug", "info"):
        return None
    return JsonLines(sys.stderr.buffer) if as_json else ConsoleLines(get_logger("gateway"))


class _Up:
    """One gateway and one fleet, and the order in which they start and stop."""

    def __init__(self, settings: UpSettings, lines: Lines | None) -> None:
        self._settings = settings
        self._lines = lines
        fleet = settings.fleet
        self._router = settings.router.router(
            fleet.time_scale if fleet.engine is EngineKind.SIMULATED else 1.0
        )
        self._fleet = fleet_of(settings.fleet, self._router.inflight)
        self._stop = asyncio.Event()

    async def run(self) -> bool:
        """Start both side by side; at the end stop the gateway first, then the fleet."""
        stop_on_signals(self._stop)
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        parts = (
            asyncio.create_task(self._serve(url), name="gateway"),
            asyncio.create_task(self._keep_fleet(url), name="fleet"),
        )
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._fleet.stop()
        return self._stop.is_set()

    async def _serve(self, url: asyncio.Future[str]) -> None:
        await run_gateway(
            self._settings.gateway,
            self._router,
            self._fleet.source,
            ready=url.set_result,
            stop=self._stop,
            lines=self._lines,
        )

    async def _keep_fleet(self, url: asyncio.Future[str]) -> None:
        """Start the engines, say when they serve, and fail once none of them does any more."""
        await self._fleet.start()
        telling = asyncio.create_task(self._announce(url), name="announce")
        try:
            await self._fleet.wait_failed()
        finally:
            telling.cancel()

    async def _announce(self, url: asyncio.Future[str]) -> None:
        """Say where to send requests as soon as the first will be served, then when all will."""
        first = await ready(self._fleet.source, 1)
        say(announcement(await url, first[0], self._settings.gateway, "everything"))
        replicas = self._settings.fleet.replicas
        await ready(self._fleet.source, replicas)
        say(f"{replicas} of {replicas} endpoints are ready.")


def fleet_of(settings: FleetSettings, inflight: Callable[[EndpointId], int]) -> Fleet:
    """Return the fleet that the settings name, not started.

    Raises:
        ConfigError: when what it needs is not installed.

    """
    if settings.kind is FleetKind.LOCAL:
        return LocalFleet(settings, inflight=inflight)
    with needs_ray("fleet.kind"):
        from controller.fleets.ray.fleet import RayFleet  # noqa: PLC0415 -- an extra, and slow
    return RayFleet(settings, inflight=inflight)


@contextmanager
def needs_ray(field: str) -> Iterator[None]:
    """Say how to install Ray where what is imported inside lacks it; ``field`` asked for it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "ray":
            raise
        raise ConfigError(f"{field}: Ray is not installed; pip install 'headrace[ray]'") from None


async def ready(source: EndpointSource, count: int) -> list[EndpointView]:
    """Wait until ``count`` endpoints are ready; return those that are."""
    while True:
        found = [view for view in source.endpoints() if view.health is Health.READY]
        if len(found) >= count:
            return found
        await source.changed()


def announcement(url: str, view: EndpointView, settings: GatewaySettings, stops: str) -> str:
    """Return what to tell a newcomer: the URL, the model, a curl to copy, and what Ctrl-C stops."""
    key = " -H 'authorization: Bearer YOUR_KEY'" if settings.keys_file else ""
    model = view.models[0]
    return (
        f"Headrace serves {model} at {url}\n\n"
        f"  curl -N {url}/v1/chat/completions -H 'content-type: application/json'{key} \\\n"
        f'    -d \'{{"model": "{model}", "stream": true, '
        f'"messages": [{{"role": "user", "content": "Hello"}}]}}\'\n\n'
        f"Ctrl-C stops {stops}."
    )
