"""What ``headrace gateway`` does: a gateway in this process over engines that others run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import uvloop

from gateway.process import Lines, run_gateway
from headrace.cli.config import MAX_LISTED, DiscoverySettings, FrontSettings
from headrace.cli.ending import say, stop_on_signals
from headrace.cli.serving import announcement, configure_log, ready
from headrace.core.endpoint import Health
from headrace.core.errors import ConfigError
from headrace.runtime.discovery import EndpointSource, StaticSource
from headrace.runtime.kube_adapters import AdapterObjects
from headrace.runtime.kube_pods import PodSource
from headrace.runtime.probe import Prober, probe_limits
from headrace.service.clock import RealClock
from headrace.service.http import make_session
from headrace.service.kube.api import Api
from headrace.service.kube.connect import open_api, served
from headrace.service.kube.errors import KubeError
from headrace.service.kube.resource import LORA_ADAPTERS
from headrace.service.log import get_logger
from headrace.service.settings import describe, load_settings
from headrace.service.tasks import Restart, Tasks

_log = get_logger("gateway")

FIRST_LOOK_S: Final = 20.0
"""Longest wait for pods that are ready to prove themselves to us before we listen. A third of the
time that the chart's startup probe gives us."""


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
            "endpoints: name at least one engine, here or with --endpoint; or find the pods of a "
            "Kubernetes cluster with --kube"
        )
    lines = configure_log(settings.log)
    _log.info("settings", effective=describe(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, lines))


async def _serve(settings: FrontSettings, lines: Lines | None) -> bool:
    stop = asyncio.Event()
    stop_on_signals(stop)
    found = settings.discovery
    if found.kind == "list":
        listed = StaticSource(endpoint.view() for endpoint in settings.endpoints)
        await _Front(settings, listed, stop).run(lines)
    else:
        async with await open_api(found.kubeconfig, found.context) as api:
            pods = PodSource(api, found.namespace or None, found.label_selector)
            cluster = _Cluster(pods, await _adapters(settings, api))
            await _Front(settings, pods, stop, cluster).run(lines)
    return stop.is_set()


@dataclass(frozen=True, slots=True)
class _Cluster:
    """What is followed of a cluster; ``adapters`` is None where it has no such objects."""

    pods: PodSource
    adapters: AdapterObjects | None


async def _adapters(settings: FrontSettings, api: Api) -> AdapterObjects | None:
    namespace = settings.discovery.namespace
    try:
        known = await served(api, LORA_ADAPTERS, namespace)
    except KubeError:
        known = True  # away, or not ours to see: the watches will tell
    if not known:
        _log.info("no_adapter_objects", why="the cluster has no definition of LoraAdapter")
        return None
    return AdapterObjects(api, namespace or None, settings.gateway.adapters.specs())


class _Front:
    """A gateway over what a source lists; engines that are down are waited for."""

    def __init__(
        self,
        settings: FrontSettings,
        source: EndpointSource,
        stop: asyncio.Event,
        cluster: _Cluster | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._stop = stop
        self._cluster = cluster

    async def run(self, lines: Lines | None) -> None:
        """Serve until told to stop, or cancelled after that."""
        settings, clock = self._settings, RealClock()
        url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        engines = MAX_LISTED if self._cluster is not None else len(settings.endpoints)
        session = make_session(
            probe_limits(settings.probe, engines), key=settings.gateway.upstream.key
        )
        prober = Prober(self._source, session, settings.probe, clock, Random())
        try:
            async with Tasks(clock) as tasks:
                tasks.start("probe", prober.run, restart=Restart())
                tasks.start("announce", lambda: self._announce(prober, url))
                if self._cluster is not None:
                    _follow(self._cluster, tasks)
                    await self._or_stop(_first_look(self._cluster, prober))
                await run_gateway(
                    settings.gateway,
                    settings.router.router(),
                    prober,
                    ready=url.set_result,
                    stop=self._stop,
                    lines=lines,
                    adapters=self._cluster.adapters if self._cluster is not None else None,
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
        looked_for = f"{count} engine(s)"
        if self._cluster is not None:
            looked_for = _place(self._settings.discovery)
        say(f"Headrace listens at {at} and looks for {looked_for}.")
        first = await ready(prober, 1)
        say(announcement(at, first[0], self._settings.gateway, "the gateway"))
        if self._cluster is None:
            await ready(prober, count)
            say(f"{count} of {count} endpoints are ready.")


def _only(error: Exception) -> Exception:
    """Return the one error inside groups of one, so that it can be told in a line."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _place(discovery: DiscoverySettings) -> str:
    where = f"namespace {discovery.namespace}" if discovery.namespace else "all namespaces"
    return f"pods with {discovery.label_selector} in {where}"


def _follow(cluster: _Cluster, tasks: Tasks) -> None:
    tasks.start("pods", cluster.pods.run, restart=Restart())
    if cluster.adapters is not None:
        for name, work in cluster.adapters.tasks():
            tasks.start(name, work, restart=Restart())


def _first_look(cluster: _Cluster, prober: Prober) -> asyncio.Task[None]:
    """Wait until all pods are known, and those that are ready have shown it to us, too.

    A gateway that listened earlier would refuse requests that another replica still serves. The
    list is waited for as long as it takes: who knows no endpoint has nothing to serve. Adapters
    are not: without them models are still served.
    """
    pods = cluster.pods

    def unproven() -> bool:
        known = {view.endpoint_id: view.health for view in prober.endpoints()}
        return any(
            view.health is Health.READY and known.get(view.endpoint_id) is not Health.READY
            for view in pods.endpoints()
        )

    async def look() -> None:
        await pods.synced()
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                while unproven():
                    await prober.changed()
                if cluster.adapters is not None:
                    await cluster.adapters.synced()
        except TimeoutError:
            what = "endpoints_unproven" if unproven() else "adapters_unknown"
            _log.warning(what, after_s=FIRST_LOOK_S)

    return asyncio.create_task(look())
