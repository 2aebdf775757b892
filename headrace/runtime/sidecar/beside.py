"""What the sidecar knows of its engine and does to it. Touches the engine and the clock."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest

from headrace.core.adapter import AdapterSpec
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView, Health
from headrace.core.errors import EngineError, EngineUnreachable, HeadraceError
from headrace.core.ids import ModelName
from headrace.runtime.adapters import AdapterHost, LoadedAdapter
from headrace.runtime.artifacts.store import ArtifactStore
from headrace.runtime.client import EngineClient
from headrace.runtime.discovery import EndpointSource
from headrace.runtime.sidecar.config import RuntimeSettings
from headrace.runtime.sidecar.drain import Drain
from headrace.runtime.sidecar.metrics import show
from headrace.runtime.sidecar.wire import (
    AdapterReply,
    DrainReply,
    FailureReply,
    FetchReply,
    PutAdapter,
    StateReply,
)
from headrace.service.log import get_logger
from headrace.service.telemetry import Telemetry

_log = get_logger("runtime")

FAILURES: Final = 256
"""Most adapters whose last failure is remembered; the latest stay."""


class Sidecar:
    """One engine, as seen from beside it.

    Args:
        settings: The sidecar's.
        source: The prober that watches the engine, its only endpoint.
        client: Calls to the engine.
        host: Its adapters.
        artifacts: The node's cache.
        clock: The prober's.
        telemetry: Metrics of ``RUNTIME_METRICS``.

    """

    def __init__(  # noqa: PLR0913 -- the parts it joins
        self,
        settings: RuntimeSettings,
        *,
        source: EndpointSource,
        client: EngineClient,
        host: AdapterHost,
        artifacts: ArtifactStore,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._source = source
        self._client = client
        self._host = host
        self._artifacts = artifacts
        self._clock = clock
        self._telemetry = telemetry
        self._draining = False
        self._adapters: tuple[LoadedAdapter, ...] = ()
        self._failures: OrderedDict[str, FailureReply] = OrderedDict()

    @property
    def view(self) -> EndpointView:
        """The engine as last seen."""
        (view,) = self._source.endpoints()
        return view

    @property
    def ready(self) -> bool:
        """Whether the engine has generated a token since it started, and may be sent more."""
        return self.view.health is Health.READY and not self._draining

    @property
    def why_not_ready(self) -> str:
        """Why ``ready`` is false, in a few words."""
        if self._draining:
            return "draining"
        return "the engine has not generated a token yet" if not self.ready else ""

    async def watch(self) -> None:
        """Follow the engine's lives until cancelled.

        A drained engine that ends and comes back was restarted by itself, not with its pod: it
        serves again. What adapters it has is asked anew in each life.
        """
        was = Health.DOWN
        while True:
            health = self.view.health
            if health is Health.READY and was is not Health.READY:
                if self._draining:
                    _log.info("drain_over", why="the engine was restarted")
                self._draining = False
                await self._relearn()
            was = health
            await self._source.changed()

    async def _relearn(self) -> None:
        try:
            self._adapters = await self._host.loaded()
        except EngineError as error:
            _log.warning("adapters_unread", why=error.message)

    async def drain(self) -> DrainReply:
        """Stop being ready; return when the engine has been idle long enough, or at the limit."""
        limits, clock = self._settings.drain, self._clock
        self._draining = True
        drain = Drain(clock.now_s(), limits.settle_s, limits.limit_s)
        _log.info("drain_began", limit_s=limits.limit_s)
        why = drain.over(clock.now_s())
        while why is None:
            try:
                report = await self._client.report()
                drain = drain.saw(report.running, report.waiting, clock.now_s())
                why = drain.over(clock.now_s())
            except EngineUnreachable:
                why = "engine_gone"  # nothing listens: nothing can be cut short
            except EngineError as error:
                drain = drain.saw(None, None, clock.now_s())
                why = drain.over(clock.now_s())
                _log.debug("drain_unread", why=error.message)
            if why is None:
                await clock.sleep(limits.look_s)
        waited_s = clock.now_s() - drain.began_s
        _log.info("drain_ended", why=why, waited_s=round(waited_s, 3), running=drain.running)
        return DrainReply(why, waited_s, drain.running, drain.waiting, drain.looks)

    async def adapters(self) -> tuple[AdapterReply, ...]:
        """Return the adapters that the engine has; EngineError when it does not say."""
        self._adapters = await self._host.loaded()
        return tuple(map(_told, self._adapters))

    async def load(self, name: str, body: PutAdapter) -> AdapterReply:
        """Have the engine serve an adapter; errors are those of ``AdapterHost.load``."""
        models = self.view.models
        base = models[0] if models else ModelName("")
        spec = AdapterSpec(
            name=ModelName(name),
            base=base,
            source=body.source,
            rank=body.rank,
            digest=body.digest,
        )
        try:
            loaded = await self._host.load(spec)
        except HeadraceError as error:
            why = str(getattr(error, "message", error))
            self._failures[name] = FailureReply(name, body.source, body.digest, why)
            self._failures.move_to_end(name)
            while len(self._failures) > FAILURES:
                self._failures.popitem(last=False)
            raise
        self._failures.pop(name, None)
        return _told(loaded)

    @property
    def failures(self) -> tuple[FailureReply, ...]:
        """What failed when it was last to be loaded, and was not unloaded since."""
        return tuple(self._failures.values())

    async def unload(self, name: str) -> bool:
        """Have the engine forget an adapter; False if it had none of that name."""
        self._failures.pop(name, None)
        return await self._host.unload(ModelName(name))

    async def state(self) -> StateReply:
        """Return all that is known; what the engine cannot be asked for now is as last known."""
        await self._relearn()
        view = self.view
        load = view.load
        return StateReply(
            engine=self._settings.engine.program.value,
            url=view.url,
            health=view.health.value,
            ready=self.ready,
            draining=self._draining,
            models=view.models,
            running=None if load is None else load.running,
            waiting=None if load is None else load.waiting,
            kv_used_ratio=None if load is None else load.kv_used_ratio,
            adapters=tuple(map(_told, self._adapters)),
            fetches=tuple(
                FetchReply(fetch.name, fetch.source, fetch.done_bytes, fetch.total_bytes)
                for fetch in self._artifacts.fetches()
            ),
            cache_bytes=await self._artifacts.used_bytes(),
            kv_relay=self._settings.kv_relay.engine is not None,
        )

    async def metrics(self, registry: CollectorRegistry) -> bytes:
        """Return the page of metrics, the engine's part of it read now."""
        telemetry = self._telemetry
        try:
            show(telemetry, await self._client.report())
        except EngineError:
            show(telemetry, None)
        telemetry.gauge("headrace_engine_ready").labels().set(float(self.ready))
        telemetry.gauge("headrace_engine_draining").labels().set(float(self._draining))
        await self._relearn()
        telemetry.gauge("headrace_engine_adapters").labels().set(len(self._adapters))
        used_bytes = await self._artifacts.used_bytes()
        telemetry.gauge("headrace_artifact_cache_bytes").labels().set(used_bytes)
        return generate_latest(registry)


def _told(adapter: LoadedAdapter) -> AdapterReply:
    return AdapterReply(adapter.name, adapter.path, adapter.digest, adapter.ours)
