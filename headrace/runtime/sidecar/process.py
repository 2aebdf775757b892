"""The sidecar as a process: wires everything, listens, stops. Opens sockets, starts tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry

from headrace.core.endpoint import EndpointView
from headrace.core.errors import ConfigError
from headrace.core.ids import EndpointId
from headrace.runtime.adapters import AdapterHost, AdapterLimits, Held
from headrace.runtime.artifacts.store import ArtifactStore
from headrace.runtime.client import ClientLimits, EngineClient
from headrace.runtime.discovery import StaticSource
from headrace.runtime.engines.catalog import DIALECTS, EngineProgram
from headrace.runtime.probe import Prober, probe_limits
from headrace.runtime.sidecar.app import make_app
from headrace.runtime.sidecar.beside import Sidecar
from headrace.runtime.sidecar.config import RuntimeSettings
from headrace.runtime.sidecar.metrics import RUNTIME_METRICS
from headrace.runtime.sidecar.relay import Relay
from headrace.service.clock import RealClock
from headrace.service.http import HttpLimits, make_session
from headrace.service.listening import ServerLimits, listen, serve
from headrace.service.tasks import Restart, Tasks
from headrace.service.telemetry import Telemetry

STOP_S: Final = 1
"""What requests in flight get at the end: the engine is gone by then."""

ENGINE: Final = EndpointId("engine")


def web_session(parts: int) -> aiohttp.ClientSession:
    """Open a session for downloads: a connection per range; calls have limits of their own."""
    return make_session(
        HttpLimits(connections=parts + 2, connections_per_host=parts + 2, read_s=None, total_s=None)
    )


async def run_sidecar(
    settings: RuntimeSettings, *, ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Serve until ``stop`` is set.

    Args:
        settings: The sidecar's settings.
        ready: Called with the URL as soon as connections are accepted.
        stop: Set it to stop.

    Raises:
        ConfigError: if a file cannot be read, a folder to hold is not in the cache, or an address
            cannot be listened on.

    """
    clock, registry = RealClock(), CollectorRegistry()
    telemetry = Telemetry(registry, RUNTIME_METRICS)
    key = _key(settings.api_key_file)
    async with AsyncExitStack() as stack:
        listener = listen(settings.host, settings.port, fields="host, port")
        stack.callback(listener.close)
        web = await stack.enter_async_context(web_session(settings.artifacts.parts))
        store = ArtifactStore(settings.artifacts, web, clock, Random(), telemetry)
        for held in await asyncio.to_thread(_hold, store, settings.hold):
            stack.callback(held.release)
        limits = probe_limits(settings.probe, 4)
        session = await stack.enter_async_context(make_session(limits, key=settings.engine.key))
        client = _client(settings, session)
        adapters = AdapterLimits(settings.engine.adapters, settings.engine.adapter_s)
        host = AdapterHost(client, DIALECTS[settings.engine.program], store, adapters)
        stack.push_async_callback(host.close)
        prober = Prober(StaticSource([_engine(settings)]), session, settings.probe, clock, Random())
        sidecar = Sidecar(
            settings,
            source=prober,
            client=client,
            host=host,
            artifacts=store,
            clock=clock,
            telemetry=telemetry,
        )
        works: dict[str, Callable[[], Awaitable[None]]] = {
            "probe": prober.run,
            "watch": sidecar.watch,
        }
        if settings.kv_relay.engine is not None:
            relay = Relay(settings.kv_relay.engine, settings.kv_relay, telemetry)
            relay.open()
            stack.callback(relay.close)
            works |= {"relay": relay.follow, "replays": relay.serve_replays}
        tasks = await stack.enter_async_context(Tasks(clock))
        for name, work in works.items():
            tasks.start(name, work, restart=Restart())
        app = make_app(sidecar, registry, key)
        await serve(
            app, listener, ServerLimits(settings.connections, STOP_S), ready=ready, stop=stop
        )


def _engine(settings: RuntimeSettings) -> EndpointView:
    simulated = settings.engine.program is EngineProgram.SIMULATED
    return EndpointView(ENGINE, settings.engine.url, (), simulated=simulated)


def _client(settings: RuntimeSettings, session: aiohttp.ClientSession) -> EngineClient:
    limits = ClientLimits(settings.probe.timeout_s, settings.probe.page_limit_bytes)
    return EngineClient(session, settings.engine.url, limits)


def _key(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"api_key_file: cannot read {path}: {error}") from None
    if not key:
        raise ConfigError(f"api_key_file: {path} is empty")
    return key


def _hold(store: ArtifactStore, paths: tuple[Path, ...]) -> list[Held]:
    held: list[Held] = []
    for path in paths:
        found = store.find(str(path))
        if found is None:
            for other in held:
                other.release()
            raise ConfigError(f"hold: {path} is no complete artifact in artifacts.cache_dir")
        held.append(found)
    return held
