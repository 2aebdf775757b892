"""The gateway as a process, or as part of one: wires everything, listens, drains, stops.

The composition root of the gateway: opens sockets, starts tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

import aiohttp
from prometheus_client import CollectorRegistry

from gateway.accounting import Accounts, LineWriter
from gateway.adapter_hosts import RealHosts
from gateway.adapters import Adapters
from gateway.admission import Admission
from gateway.app import Gateway, cold_app
from gateway.config import GatewaySettings, KvEventSettings
from gateway.decisions import Decisions
from gateway.explaining import add_explaining
from gateway.front import Fronts
from gateway.keys import Keys, load_keys
from gateway.preparing import FOR_EVER, Preparing
from gateway.retry import Circuit
from gateway.serve import Parts, Service
from gateway.sharing import open_sharing
from gateway.tokens import PromptTokens
from gateway.upstream import Upstream
from gateway.watch import Watch
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView
from headrace.runtime.adapter_source import AdapterSource, ListedAdapters
from headrace.runtime.client import ClientLimits, EngineClient
from headrace.runtime.discovery import EndpointSource
from headrace.service.clock import RealClock
from headrace.service.http import HttpLimits, make_session
from headrace.service.lines import FLUSH_S
from headrace.service.listening import ServerLimits, listen, serve
from headrace.service.tasks import Restart, Tasks
from headrace.service.telemetry import Telemetry
from kvcache.scheme import Guesses
from kvcache.shell.subscriber import Subscriber, SubscriberSettings
from router.router import Router
from router.shadow import Shadow


class Lines(LineWriter, Protocol):
    """A buffered writer of request lines."""

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        ...


async def run_gateway(  # noqa: PLR0913 -- what a gateway is made of
    settings: GatewaySettings,
    router: Router,
    source: EndpointSource,
    *,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    lines: Lines | None = None,
    adapters: AdapterSource | None = None,
) -> None:
    """Serve until ``stop`` is set, then let streams in flight finish for ``drain_s`` seconds.

    Args:
        settings: The gateway's settings.
        router: Its router; this function owns it from now on.
        source: Where the endpoints come from.
        ready: Called with the URL as soon as connections are accepted.
        stop: Set it to stop; cancelling the task stops without waiting for streams.
        lines: Where request lines go; None writes none.
        adapters: Which adapters there are; None: those that the settings name.

    Raises:
        ConfigError: if the keys file is wrong or the address cannot be listened on.

    """
    clock = RealClock()
    registry = CollectorRegistry()
    telemetry = Telemetry(registry)
    keys = load_keys(settings.keys_file)
    listener = listen(settings.host, settings.port, fields="gateway.host, gateway.port")
    session = make_session(HttpLimits(), key=settings.upstream.key)
    loading = _loading(
        settings, router, adapters, session=session, clock=clock, telemetry=telemetry
    )
    parts = replace(_build(settings, router, keys, telemetry, clock, lines), adapters=loading)
    cold = cold_app(router, keys, registry)
    add_explaining(cold, keys, parts.decisions, parts.shadow, clock)
    service = Service(settings, parts)
    fronts = Fronts(service, settings.limits, clock)
    subscriber = Subscriber(router.prefixes, _following(settings.kv_events), clock)
    preparing = Preparing(router, service.sources, parts.tokens, partial(_engine, session))
    watch = Watch(router, source, parts, service, subscriber, preparing)
    loading.apply()
    watch.apply()  # what is known already is served from the first connection on
    loading.changed = watch.apply
    told = service.placing.told
    where = "{}:{}".format(*listener.getsockname()[:2])
    try:
        shared = open_sharing(settings.sharing, where, router, clock, telemetry, told)
        async with Tasks(clock) as tasks:
            for name, work in (*watch.tasks(), *loading.tasks(), *shared):
                tasks.start(name, work, restart=Restart())
            _start_own(tasks, parts, fronts, service, preparing, lines)
            await serve(
                Gateway(service, cold),
                listener,
                _server_limits(settings),
                ready=ready,
                stop=stop,
                protocol=fronts.protocol,
            )
    finally:
        listener.close()
        await loading.close()
        await session.close()
        _close(parts, lines)


def _start_own(
    tasks: Tasks,
    parts: Parts,
    fronts: Fronts,
    service: Service,
    preparing: Preparing,
    lines: Lines | None,
) -> None:
    tasks.start("tokenizers", preparing.run, restart=FOR_EVER)
    tasks.start("sweep", parts.upstream.sweep, restart=Restart())
    tasks.start("idle", fronts.sweep, restart=Restart())
    tasks.start("held", service.placing.tick, restart=Restart())
    if lines is not None:
        tasks.start("lines", lambda: _flush(lines), restart=Restart())


def _server_limits(settings: GatewaySettings) -> ServerLimits:
    limits = settings.limits
    return ServerLimits(limits.connections, settings.drain_s, limits.keepalive_s)


def _close(parts: Parts, lines: Lines | None) -> None:
    parts.upstream.close()
    parts.tokens.close()
    if lines is not None:
        lines.flush()


def _build(
    settings: GatewaySettings,
    router: Router,
    keys: Keys,
    telemetry: Telemetry,
    clock: Clock,
    lines: Lines | None,
) -> Parts:
    """Make what a service works with."""
    retry, routing = settings.retry, settings.routing
    return Parts(
        router=router,
        upstream=Upstream(settings.upstream, clock, telemetry),
        admission=Admission(settings.limits, keys),
        accounts=Accounts(telemetry, lines if settings.log_requests else None),
        circuit=Circuit(first_s=retry.rest_first_s, most_s=retry.rest_most_s),
        telemetry=telemetry,
        clock=clock,
        decisions=Decisions(
            routing.decisions,
            routing.decisions_bytes,
            policy=router.policy_name,
            seed=router.seed,
        ),
        tokens=PromptTokens(settings.tokens, telemetry),
        shadow=None if routing.shadow is None else Shadow(routing.shadow, router.seed),
    )


def _loading(
    settings: GatewaySettings,
    router: Router,
    source: AdapterSource | None,
    *,
    session: aiohttp.ClientSession,
    clock: Clock,
    telemetry: Telemetry,
) -> Adapters:
    """Make what loads adapters; nothing is loaded yet."""
    return Adapters(
        settings.adapters,
        router,
        source or ListedAdapters(settings.adapters.specs()),
        hosts=RealHosts(settings.adapters, session, clock),
        clock=clock,
        telemetry=telemetry,
    )


def _engine(session: aiohttp.ClientSession, view: EndpointView) -> EngineClient:
    return EngineClient(session, view.url, ClientLimits(), dp_rank=view.dp_rank)


def _following(settings: KvEventSettings) -> SubscriberSettings:
    return SubscriberSettings(
        lost_after_s=settings.lost_after_s,
        replay_timeout_s=settings.replay_timeout_s,
        check_up_s=settings.check_up_s,
        guesses=Guesses(seeds=settings.hash_seeds),
    )


async def _flush(lines: Lines) -> None:
    while True:
        await asyncio.sleep(FLUSH_S)
        lines.flush()
