"""Simulated engines of one process: start, crash, restart, drain. Touches sockets and tasks."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, TypeVar

from headrace.core.clock import Clock
from headrace.service.tasks import Tasks
from headrace.simulator.config import SimulatorSettings
from headrace.simulator.http.adapters import Adapters
from headrace.simulator.http.app import App
from headrace.simulator.http.events import EventFeed
from headrace.simulator.http.exchange import HttpLimits
from headrace.simulator.http.faults import FaultRequest
from headrace.simulator.http.host import Host, Pace
from headrace.simulator.http.prepare import Site
from headrace.simulator.http.server import HttpServer
from headrace.simulator.http.small import active
from headrace.simulator.spec import EngineSpec
from kvcache.hashing import BlockHasher
from kvcache.shell.publisher import EventPublisher, PublisherSettings

T = TypeVar("T")

ANSWER_FIRST_S: Final = 0.01
"""A crash waits this long, so that whoever asked for it has the answer."""

_BIND_ATTEMPTS: Final = 20
_BIND_PAUSE_S: Final = 0.05
_DRAIN_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Where an engine is; the KV event addresses are None when it publishes none."""

    index: int
    url: str
    kv_events: str | None
    kv_replay: str | None


class Engine:
    """One engine's place in the process: its port outlives its lives."""

    def __init__(self, index: int, settings: SimulatorSettings, clock: Clock, tasks: Tasks) -> None:
        self.index = index
        self.app: App | None = None
        self.server: HttpServer | None = None
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._running: list[asyncio.Task[None]] = []
        self._publisher: EventPublisher | None = None
        self._port = settings.port_of(index)
        self._addresses = _publisher_settings(settings, index)
        self._lives = 0

    @property
    def info(self) -> EngineInfo:
        """Where it is, or was before it crashed."""
        known = self._addresses
        return EngineInfo(
            self.index,
            f"http://{self._settings.host}:{self._port}",
            known.endpoint if known else None,
            known.replay_endpoint if known else None,
        )

    async def start(self, control: Callable[[FaultRequest], Mapping[str, object]]) -> None:
        """Begin a life with an empty cache.

        Raises:
            OSError: if an address stays taken.

        """
        settings = self._settings
        publisher = await self._open_publisher()
        spec = settings.engine.spec(record_events=publisher is not None)
        spec = replace(spec, role=settings.role_of(self.index))
        site = self._site(spec)
        feed = None
        if publisher is not None:
            feed = EventFeed(publisher, site.adapters, spec.block_size)
        pace = Pace(
            settings.time_scale,
            settings.max_lag_s,
            settings.engine.max_num_queued_reqs,
            settings.seed + self.index,
        )
        host = Host(spec, self._clock, pace, feed)
        self.app = App(site, host, publisher, _cache_config(settings, spec), control)
        server = HttpServer(self.app.handle, HttpLimits(**settings.limits.model_dump()))
        self._port = await _patiently(lambda: server.listen(settings.host, self._port))
        self.server = server
        self._lives += 1
        life = f"engine-{self.index}-{self._lives}"
        self._running = [self._tasks.start(life, host.run)]
        if publisher is not None:
            self._running.append(self._tasks.start(f"{life}-replay", publisher.serve_replays))

    def crash(self) -> None:
        """End this life as SIGKILL would: port, connections and cache are gone at once."""
        if self.server is not None:
            self.server.abort()
        for task in self._running:
            task.cancel()
        self._running = []
        if self._publisher is not None:
            self._publisher.close()
        self.app = self.server = self._publisher = None

    def _site(self, spec: EngineSpec) -> Site:
        engine = self._settings.engine
        names = engine.names()
        return Site(
            names=names,
            adapters=Adapters(names, enabled=engine.enable_lora, limit=engine.max_cpu_loras),
            hasher=BlockHasher(
                spec.block_size, engine.prefix_caching_hash_algo, engine.python_hash_seed
            ),
            context_tokens=spec.context_tokens,
            mean_output_tokens=engine.mean_output_tokens,
            seed=self._settings.seed,
            auto_tools=engine.enable_auto_tool_choice,
        )

    async def _open_publisher(self) -> EventPublisher | None:
        if self._addresses is None:
            return None
        publisher = EventPublisher(self._addresses)

        async def open_it() -> None:
            publisher.open()

        await _patiently(open_it)
        self._publisher = publisher
        self._addresses = replace(
            self._addresses,
            endpoint=publisher.endpoint,
            replay_endpoint=publisher.replay_endpoint,
            bind=self._addresses.binds,
        )
        return publisher


class Fleet:
    """All engines of the process: ``async with Fleet(settings, clock) as fleet``."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self._settings = settings
        self._tasks = Tasks(clock)
        self._clock = clock
        self._timers: dict[tuple[int, str], asyncio.TimerHandle] = {}
        self.engines = [
            Engine(index, settings, clock, self._tasks) for index in range(settings.count)
        ]

    async def __aenter__(self) -> Fleet:
        await self._tasks.__aenter__()
        try:
            for engine in self.engines:
                await self._start(engine)
        except BaseException as error:
            self._end()
            await self._tasks.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        await self._tasks.__aexit__(kind, error, trace)

    def infos(self) -> list[EngineInfo]:
        """Return where the engines are, in order."""
        return [engine.info for engine in self.engines]

    async def drain(self, limit_s: float) -> bool:
        """Accept no more and wait for requests under way; False when time ran out."""
        servers = [engine.server for engine in self.engines if engine.server is not None]
        for server in servers:
            server.stop_listening()
        until_s = self._clock.now_s() + limit_s
        while any(server.connections for server in servers):
            if self._clock.now_s() >= until_s:
                return False
            await self._clock.sleep(_DRAIN_POLL_S)
        return True

    async def _start(self, engine: Engine) -> None:
        await engine.start(lambda fault: self.fault(fault, engine.index))

    def _end(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for engine in self.engines:
            engine.crash()

    def fault(self, fault: FaultRequest, asked: int) -> dict[str, object]:
        """Carry out a fault on the engine it names, else on the one ``asked``.

        Raises:
            ApiError: 400 for values that make no sense.

        """
        index = asked if fault.engine is None else fault.engine
        fault.checked(len(self.engines))
        engine = self.engines[index]
        if fault.kind == "crash":
            self._later(index, "crash", ANSWER_FIRST_S, lambda: self._crash(engine, fault))
        elif fault.kind == "restart":
            self._restart(engine)
        elif engine.app is not None:
            faults = engine.app.host.faults
            faults.apply(fault)
            engine.app.host.wake()
            if fault.for_s is not None:
                self._later(index, fault.kind, fault.for_s, lambda: self._clear(engine, fault))
        return {
            "engine": index,
            "up": engine.app is not None,
            "faults": active(engine.app.host.faults) if engine.app is not None else None,
        }

    def _later(self, index: int, what: str, delay_s: float, act: Callable[[], None]) -> None:
        """Do ``act`` after a while; one timer per engine and kind, the newest counts."""
        old = self._timers.pop((index, what), None)
        if old is not None:
            old.cancel()
        loop = asyncio.get_running_loop()
        self._timers[index, what] = loop.call_later(delay_s, act)

    def _clear(self, engine: Engine, fault: FaultRequest) -> None:
        if engine.app is not None:
            engine.app.host.faults.end(fault.kind)
            engine.app.host.wake()

    def _crash(self, engine: Engine, fault: FaultRequest) -> None:
        engine.crash()
        if fault.restart_after_s is not None:
            self._later(
                engine.index, "restart", fault.restart_after_s, lambda: self._restart(engine)
            )

    def _restart(self, engine: Engine) -> None:
        name = f"restart-{engine.index}"
        if engine.app is None and name not in self._tasks.names():
            self._tasks.start(name, lambda: self._start(engine))


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Bind an address, which a life that has just ended may hold a moment longer."""
    for _ in range(_BIND_ATTEMPTS - 1):
        try:
            return await attempt()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            await asyncio.sleep(_BIND_PAUSE_S)
    return await attempt()


def _publisher_settings(settings: SimulatorSettings, index: int) -> PublisherSettings | None:
    events = settings.kv_events
    if not events.enabled:
        return None
    replay = events.replay_endpoint
    return PublisherSettings(
        endpoint=_address(events.endpoint, index),
        replay_endpoint=None if replay is None else _address(replay, index),
        topic=events.topic.replace("{engine}", str(index)),
        buffer_steps=events.buffer_steps,
        hwm=events.hwm,
        bind=events.bind,
    )


def _address(address: str, index: int) -> str:
    """Return engine ``index``'s own address: by name where it has one, else by port."""
    if "{engine}" in address:
        return address.replace("{engine}", str(index))
    head, colon, port = address.rpartition(":")
    if address.startswith("tcp://") and port.isdigit() and port != "0":
        return f"{head}{colon}{int(port) + index}"
    return address


def _cache_config(settings: SimulatorSettings, spec: EngineSpec) -> dict[str, str]:
    """Return the labels of ``vllm:cache_config_info``; values as Python prints them."""
    engine = settings.engine
    tokens = spec.blocks * spec.block_size
    return {
        "block_size": str(spec.block_size),
        "cache_dtype": "auto",
        "enable_prefix_caching": str(spec.enable_prefix_caching),
        "gpu_memory_utilization": str(spec.gpu_memory_utilization),
        "kv_cache_memory_bytes": str(tokens * spec.model.kv_bytes_per_token),
        "kv_cache_size_tokens": str(tokens),
        "num_gpu_blocks": str(spec.blocks),
        "prefix_caching_hash_algo": engine.prefix_caching_hash_algo,
    }
