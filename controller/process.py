"""The controller as a process: watches, leads or follows, works, answers probes, stops.

The composition root of the controller: opens sockets, starts tasks.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from controller.acting import Acting
from controller.adapters.telling import Sidecars, Telling
from controller.config import ControllerSettings
from controller.loop import Loop
from controller.metrics import CONTROLLER_METRICS
from controller.sight import OPTIONAL, Sight
from headrace.core.errors import ConfigError
from headrace.service.clock import RealClock
from headrace.service.http import HttpLimits, make_session
from headrace.service.kube.api import Api
from headrace.service.kube.connect import open_api, served
from headrace.service.kube.events import Recorder
from headrace.service.kube.lease import Terms
from headrace.service.kube.lease_shell import Elector, KubeLeases, own_name
from headrace.service.kube.resource import Key
from headrace.service.kube.workqueue_shell import WorkLimits, WorkQueue
from headrace.service.kube.writes import Writes
from headrace.service.tasks import Restart, Tasks
from headrace.service.telemetry import Telemetry

GAUGE_S: Final = 1.0
"""How often gauges are brought up to date."""

_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where the kubelet says which namespace a pod is in."""

EVER: Final = Restart(limit=2**31, most_s=10.0)
"""An API server may be away for as long as it likes; traffic does not need us."""


async def run_controller(
    settings: ControllerSettings, *, ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Keep every ModelService as it asks to be, until ``stop`` is set.

    Args:
        settings: The controller's settings.
        ready: Called with the URL of its probes once they are answered.
        stop: Set it to stop.

    Raises:
        ConfigError: if there is no API server to be reached, or the address cannot be listened on.

    """
    clock, rng = RealClock(), Random()
    registry = CollectorRegistry()
    telemetry = Telemetry(registry, CONTROLLER_METRICS)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(await open_api(settings.kubeconfig))
        writes = Writes(api, settings.writes_per_s, settings.writes_burst, clock=clock)
        recorder = Recorder(writes, instance=os.uname().nodename, clock=clock, rng=rng)
        acting = Acting(writes, recorder, clock)
        namespace = settings.namespace or ""
        sight = Sight(
            api,
            clock,
            rng,
            namespace=namespace,
            changed=lambda key: queue.add_after(key, settings.settle_s),
            seen=acting.seen,
            absent=[kind for kind in OPTIONAL if not await served(api, kind, namespace)],
        )
        loop = Loop(
            sight,
            acting,
            settings.images_used(),
            clock=clock,
            epoch_s=time.time,  # noqa: TID251 -- compared with the API server's times only
            telemetry=telemetry,
        )
        session = await stack.enter_async_context(make_session(HttpLimits()))
        telling = Telling(
            api,
            sight,
            writes,
            Sidecars(session),
            namespace=namespace,
            period_s=settings.adapters_period_s,
            clock=clock,
            epoch_s=time.time,  # noqa: TID251 -- written where operators read it
        )
        queue: WorkQueue[Key] = WorkQueue(loop.look, WorkLimits(workers=settings.workers), clock)
        leading = _Leading(settings, api, clock, rng)
        gauges = _Gauges(telemetry, api, queue, leading)
        tasks = await stack.enter_async_context(Tasks(clock))
        url = await stack.enter_async_context(_Probes(settings, sight, registry))
        for name, watch in (*sight.tasks(), *telling.tasks()):
            tasks.start(name, watch, restart=EVER)
        tasks.start("gauges", gauges.run, restart=EVER)
        tasks.start("events", recorder.run, restart=EVER)
        tasks.start(
            "lead", lambda: leading.run(lambda: _work(sight, queue, acting, telling)), restart=EVER
        )
        ready(url)
        await stop.wait()


async def _work(sight: Sight, queue: WorkQueue[Key], acting: Acting, telling: Telling) -> None:
    """Begin with every service, once all has been seen: another may have led before us."""
    await sight.synced()
    for key in sight.services.items:
        queue.add(key)
    async with asyncio.TaskGroup() as group:
        group.create_task(queue.run())
        group.create_task(acting.statuses.run())
        group.create_task(telling.run())


class _Leading:
    """Works while it may."""

    def __init__(
        self, settings: ControllerSettings, api: Api, clock: RealClock, rng: Random
    ) -> None:
        self._elector: Elector | None = None
        if settings.lease.enabled:
            lease = settings.lease
            namespace = lease.namespace or _own_namespace()
            self._elector = Elector(
                KubeLeases(api, namespace, lease.name),
                own_name(),
                Terms(lease.duration_s, lease.duration_s * 2 / 3, lease.renew_s),
                clock,
                rng,
            )

    @property
    def leads(self) -> bool:
        """Whether this process acts."""
        return self._elector is None or self._elector.leads

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work whenever we lead."""
        await (work() if self._elector is None else self._elector.run(work))


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="ascii").strip()
    except OSError:
        raise ConfigError(
            "lease.namespace: required outside of a pod, or set lease.enabled to false"
        ) from None


class _Gauges:
    """Brings the gauges up to date."""

    def __init__(
        self, telemetry: Telemetry, api: Api, queue: WorkQueue[Key], leading: _Leading
    ) -> None:
        self._queued = telemetry.gauge("headrace_queued_services").labels()
        self._leading_gauge = telemetry.gauge("headrace_leading").labels()
        self._calls = telemetry.counter("headrace_kube_calls_total")
        self._api = api
        self._queue = queue
        self._leading = leading
        self._counted: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Do so for ever."""
        while True:
            self._queued.set(len(self._queue))
            self._leading_gauge.set(self._leading.leads)
            for key, count in self._api.calls.items():
                self._calls.labels(*key).inc(count - self._counted.get(key, 0))
                self._counted[key] = count
            await asyncio.sleep(GAUGE_S)


class _Probes:
    """Answers /healthz, /readyz and /metrics; its context gives the URL."""

    def __init__(
        self, settings: ControllerSettings, sight: Sight, registry: CollectorRegistry
    ) -> None:
        self._settings = settings
        self._sight = sight
        self._registry = registry
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        host, port = self._settings.host, self._settings.port
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"host, port: cannot listen on {host}:{port}: {error.strerror}"
            ) from None
        bound = self._runner.addresses[0]
        return f"http://{bound[0]}:{bound[1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._sight.is_synced:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="has not seen everything yet\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
