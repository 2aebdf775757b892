"""Watches endpoints and publishes what is known of them. Touches the network and the clock.

A prober is itself a source: it takes the list of another (a fleet, a file) and adds the models,
health, speed and load that it finds. An endpoint is READY only after it has generated a token.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import Final

import aiohttp
from typing_extensions import override

from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView, Health
from headrace.core.errors import EngineError, EngineUnreachable
from headrace.core.ids import EndpointId
from headrace.runtime.client import ClientLimits, EngineClient, ServedModels
from headrace.runtime.config import ProbeSettings
from headrace.runtime.discovery import EndpointSource, ListSource
from headrace.runtime.metrics_text import EngineReport
from headrace.runtime.vital_signs import (
    Sight,
    VitalSigns,
    measured_speed,
    reported,
    saw,
    stuck,
)
from headrace.service.http import HttpLimits
from headrace.service.log import get_logger

_log = get_logger("probe")

SHORT_PROMPT_TOKENS: Final = 8
PROMPT_IDS: Final = (100, 1_000)
"""Token ids to draw prompts from: in any vocabulary, past the special tokens at its start."""


def probe_limits(settings: ProbeSettings, endpoints: int) -> HttpLimits:
    """Return bounds for a session that probes so many endpoints: a connection or two for each."""
    return HttpLimits(
        connections=settings.concurrency + endpoints,
        connections_per_host=4,
        connect_s=settings.timeout_s,
        read_s=settings.generate_timeout_s,
        total_s=settings.generate_timeout_s,
        keepalive_s=max(2.0, 2 * settings.period_s),
    )


class Prober(EndpointSource):
    """Endpoints of ``source`` with what looking at them showed. ``run()`` does the looking.

    They are written to ``published`` where one is given, for who must have the list beforehand.
    """

    def __init__(
        self,
        source: EndpointSource,
        session: aiohttp.ClientSession,
        settings: ProbeSettings,
        clock: Clock,
        rng: Random,
        published: ListSource | None = None,
    ) -> None:
        self._source = source
        self._session = session
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._published = published or ListSource()
        self._given: dict[EndpointId, EndpointView] = {}
        self._signs: dict[EndpointId, VitalSigns] = {}
        self._watchers: dict[EndpointId, asyncio.Task[None]] = {}
        self._looks = asyncio.Semaphore(settings.concurrency)
        self._proofs = asyncio.Semaphore(settings.measured_at_once)
        self._sync()

    @override
    def endpoints(self) -> list[EndpointView]:
        return self._published.endpoints()

    @override
    async def changed(self) -> None:
        await self._published.changed()

    @property
    @override
    def away(self) -> bool:
        return self._source.away

    def get(self, endpoint_id: EndpointId) -> EndpointView | None:
        """Return one endpoint as published, or None when it is not known."""
        return self._published.get(endpoint_id)

    async def run(self) -> None:
        """Look at every endpoint on its period, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._sync()
                    self._start_and_stop_watchers(group)
                    await self._source.changed()
        finally:
            self._watchers.clear()

    def _sync(self) -> None:
        """Take over what the source says now. What it says again as it said it costs nothing."""
        before = self._given
        self._given = {view.endpoint_id: view for view in self._source.endpoints()}
        for endpoint_id in self._signs.keys() - self._given.keys():
            del self._signs[endpoint_id]
            self._published.remove(endpoint_id)
        for endpoint_id, view in self._given.items():
            known = before.get(endpoint_id)
            if known is view:
                continue
            if known is not None and known.url != view.url:
                self._start_over(endpoint_id)
            self._signs.setdefault(endpoint_id, VitalSigns())
            self._publish(endpoint_id)

    def _start_over(self, endpoint_id: EndpointId) -> None:
        """Forget what was seen: another process goes by that name now."""
        self._signs.pop(endpoint_id, None)
        watcher = self._watchers.pop(endpoint_id, None)
        if watcher is not None:
            watcher.cancel()

    def _start_and_stop_watchers(self, group: asyncio.TaskGroup) -> None:
        for endpoint_id in self._watchers.keys() - self._given.keys():
            self._watchers.pop(endpoint_id).cancel()
        for endpoint_id in self._given.keys() - self._watchers.keys():
            self._watchers[endpoint_id] = group.create_task(self._watch(endpoint_id))

    async def _watch(self, endpoint_id: EndpointId) -> None:
        while True:
            async with self._looks:
                await self._look(endpoint_id)
            if self._signs[endpoint_id].needs_proof:
                async with self._proofs:
                    await self._prove(endpoint_id)
            ready = self._signs[endpoint_id].proven
            period_s = self._settings.period_s if ready else self._settings.starting_period_s
            await self._clock.sleep(period_s)

    async def _look(self, endpoint_id: EndpointId) -> None:
        """Ask for health, models and metrics; metrics that cannot be read make nobody unwell."""
        client = self._client(endpoint_id)
        signs = self._signs[endpoint_id]
        at_s = self._clock.now_s()
        served, report = ServedModels(()), None
        try:
            await client.health()
            served = await client.models()
            sight = Sight.HEALTHY if served.names else Sight.UNHEALTHY
        except EngineUnreachable:
            sight = Sight.REFUSED
        except EngineError:
            sight = Sight.UNHEALTHY
        if sight is Sight.HEALTHY:
            report = await self._report(client, endpoint_id)
            if report is not None:
                signs = reported(signs, report, at_s)
            if stuck(signs, at_s, self._settings.stall_s):
                sight = Sight.STUCK
        signs = saw(signs, sight, self._settings.failures_to_down)
        if sight is Sight.HEALTHY:
            signs = replace(signs, models=served.names, files=served.files)
            signs = self._with_geometry(endpoint_id, signs, report.kv_tokens if report else None)
        self._set(endpoint_id, signs)

    async def _report(self, client: EngineClient, endpoint_id: EndpointId) -> EngineReport | None:
        try:
            return await client.report()
        except EngineError as error:
            _log.debug("metrics_unread", endpoint=endpoint_id, why=error.message)
            return None

    def _with_geometry(
        self, endpoint_id: EndpointId, signs: VitalSigns, kv_tokens: int | None
    ) -> VitalSigns:
        if kv_tokens is None:
            return signs
        speed = signs.speed or self._given[endpoint_id].speed
        return replace(signs, speed=replace(speed, kv_tokens=kv_tokens))

    async def _prove(self, endpoint_id: EndpointId) -> None:
        """Have it generate; the first time also measure how fast it computes a prompt."""
        client = self._client(endpoint_id)
        model = self._signs[endpoint_id].models[0]
        limit_s = self._settings.generate_timeout_s
        try:
            served = await client.models()
            generates = await client.generate_one(model, self._prompt(SHORT_PROMPT_TOKENS), limit_s)
            long = self._measure_tokens(served) if generates else 0
            floor_s = elapsed_s = 0.0
            if long:
                floor_s = await self._timed(client, endpoint_id, SHORT_PROMPT_TOKENS)
                elapsed_s = await self._timed(client, endpoint_id, long)
        except EngineError as error:
            _log.debug("not_yet_generating", endpoint=endpoint_id, why=error.message)
            return
        signs = self._signs[endpoint_id]
        presumed = signs.speed or self._given[endpoint_id].speed
        speed = measured_speed(presumed, long, elapsed_s, floor_s, presumed.kv_tokens)
        self._set(endpoint_id, replace(signs, proven=True, speed=speed))

    def _measure_tokens(self, served: ServedModels) -> int:
        """Length of the measuring prompt: what is configured, cut to what the engine takes."""
        room = (served.max_model_tokens or self._settings.measure_tokens + 1) - 1
        tokens = min(self._settings.measure_tokens, room)
        return tokens if tokens > 2 * SHORT_PROMPT_TOKENS else 0

    async def _timed(self, client: EngineClient, endpoint_id: EndpointId, tokens: int) -> float:
        model = self._signs[endpoint_id].models[0]
        prompt = self._prompt(tokens)
        started_s = self._clock.now_s()
        await client.generate_one(model, prompt, self._settings.generate_timeout_s)
        return self._clock.now_s() - started_s

    def _prompt(self, tokens: int) -> list[int]:
        """Return a prompt that no cache can hold."""
        return [self._rng.randrange(*PROMPT_IDS) for _ in range(tokens)]

    def _client(self, endpoint_id: EndpointId) -> EngineClient:
        limits = ClientLimits(self._settings.timeout_s, self._settings.page_limit_bytes)
        given = self._given[endpoint_id]
        return EngineClient(self._session, given.url, limits, dp_rank=given.dp_rank)

    def _set(self, endpoint_id: EndpointId, signs: VitalSigns) -> None:
        before = self._signs[endpoint_id].health
        self._signs[endpoint_id] = signs
        if signs.health is not before:
            _log.info("endpoint_" + signs.health, endpoint=endpoint_id, models=signs.models)
        self._publish(endpoint_id)

    def _publish(self, endpoint_id: EndpointId) -> None:
        """Merge: who owns the endpoint has the last word on draining it and on its being gone.

        One that is down still has the names it served: a request for them may be tried again.
        """
        given, signs = self._given[endpoint_id], self._signs[endpoint_id]
        before = self._published.get(endpoint_id) or given
        self._published.put(
            replace(
                given,
                models=signs.models or given.models or before.models,
                files=signs.files or given.files,
                health=signs.health if given.health is Health.READY else given.health,
                speed=signs.speed or given.speed,
                load=signs.load,
            )
        )
