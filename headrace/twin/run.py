"""What places requests over simulated engines in virtual time. Pure, apart from a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from headrace.core.endpoint import BlockScheme, EndpointView, Role
from headrace.core.errors import InvalidRequest
from headrace.core.ids import BlockHash, EndpointId, ModelName, RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.core.request import NO_ENGINE_BLOCKS, RouteRequest
from headrace.simulator.engine import Finished, SimEngine, StepResult
from headrace.simulator.fleet import EngineActor
from headrace.simulator.requests import EngineRequest
from headrace.simulator.spec import EngineSpec
from headrace.simulator.speed import presumed_speed
from headrace.simulator.trace import TraceRequest
from headrace.simulator.workload import block_keys, engine_request
from headrace.simulator.world import World
from headrace.twin.changes import changes_of
from headrace.twin.placement import (
    BlocksChanged,
    EngineTruth,
    Placed,
    Placement,
    SelfTimed,
    Splitting,
)
from headrace.twin.production import ProductionRouter

ROUTE_BLOCK_TOKENS: Final = 64
"""Tokens per routing block: the gateway hashes 256 bytes, and a simulated token is 4."""

EVENTS_LAG_S: Final = 0.002
"""Time from the end of a step until its KV events are known to whoever listens."""

_MODEL: Final = ModelName("sim")


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """What one engine did in a run."""

    endpoint_id: EndpointId
    busy_s: float
    computed_tokens: int
    preemptions: int
    adapter_loads: int = 0


@dataclass(frozen=True, slots=True)
class TwinResult:
    """What a run gave: one record per request in order of arrival, and how long it took.

    ``digest`` hashes every placement and ending with its virtual time: same seed, same digest.
    """

    records: list[ServedRecord]
    digest: str
    virtual_s: float
    wall_s: float
    engines: list[EngineTotals] = field(default_factory=list)


@dataclass(slots=True)
class _Live:
    """One request on its way; the output length stays with its engine (INV-9)."""

    arrival_s: float
    engine_request: EngineRequest
    first_s: float | None = None
    sent_to: EndpointId | None = None
    reply_at: EndpointId | None = None  # while another engine computes the prompt
    prefill_cached_tokens: int | None = None  # what that one had of it


@dataclass(slots=True)
class _Twin:
    """One run's state: the world, the engines, and what places requests on them."""

    world: World
    placement: Placement
    block_tokens: int
    engines: dict[EndpointId, EngineActor] = field(default_factory=dict)
    live: dict[RequestId, _Live] = field(default_factory=dict)
    records: dict[RequestId, ServedRecord] = field(default_factory=dict)
    left: int = 0
    splits: bool = False

    def arrive(self, request_id: RequestId, number: int, trace: TraceRequest) -> None:
        """Take one request from the workload, as ``gateway.serve`` does from a client."""
        now_s = self.world.now_s
        engine_side = engine_request(trace, request_id, number, self.block_tokens)
        known = NO_ENGINE_BLOCKS
        if self.placement.kv_events:
            known = {_scheme(self.block_tokens): engine_side.block_keys}  # type: ignore[dict-item]
        request = RouteRequest(
            request_id,
            _MODEL if trace.adapter is None else ModelName(trace.adapter),
            trace.prompt_tokens,
            blocks=_routing_blocks(trace, number),
            block_tokens=float(ROUTE_BLOCK_TOKENS),
            max_output_tokens=trace.output_tokens,
            session=trace.session,
            priority=trace.priority,
            may_split=self.splits,
            engine_blocks=known,
        )
        self.live[request_id] = _Live(now_s, engine_side)
        self.send(self.placement.submit(request, now_s))

    def send(self, placed: Iterable[Placed]) -> None:
        """Hand requests to the engines chosen for them."""
        for each in placed:
            request_id, live = each.request.request_id, self.live[each.request.request_id]
            if each.prefill_id is None:
                self.world.note(f"place {request_id} {each.endpoint_id}")
                self._add(each.endpoint_id, live.engine_request)
            else:
                self.world.note(f"place {request_id} {each.prefill_id} {each.endpoint_id}")
                live.reply_at = each.endpoint_id
                self._add(each.prefill_id, replace(live.engine_request, output_tokens=1))

    def call_back(self, request_id: RequestId) -> None:
        """Take a request away from its engine, as the gateway does by closing its connection."""
        live = self.live[request_id]
        assert live.first_s is None
        assert live.sent_to is not None
        self.world.note(f"call back {request_id}")
        assert self.engines[live.sent_to].abort(request_id)

    def _add(self, endpoint_id: EndpointId, request: EngineRequest) -> None:
        self.live[request.request_id].sent_to = endpoint_id
        try:
            self.engines[endpoint_id].add(request)
        except InvalidRequest:  # longer than the engine can hold: a 400 in real life
            usage = Usage(request.prompt_tokens, 0)
            self._record(request.request_id, 0.0, usage, Outcome.REFUSED_INVALID, endpoint_id)
            self.send(self.placement.ended(request.request_id, usage, self.world.now_s))

    def stepped(self, endpoint_id: EndpointId, result: StepResult) -> None:
        """Learn what an engine's step produced, as the gateway does from the streams."""
        now_s = self.world.now_s
        for request_id in result.first:
            if self.live[request_id].reply_at is not None:
                continue  # nobody sees the one token of an engine that computes the prompt
            self.live[request_id].first_s = now_s
            self.send(self.placement.first_token(request_id, now_s))
        for ended in result.finished:
            self._finished(endpoint_id, ended)
        if self.placement.kv_events:
            for change in changes_of(self.engines[endpoint_id].engine.drain_events()):
                learn = partial(self._changed, endpoint_id, change)
                self.world.at(round(EVENTS_LAG_S * 1e9), learn)

    def _changed(self, endpoint_id: EndpointId, change: BlocksChanged) -> None:
        self.placement.changed(endpoint_id, change, self.world.now_s)

    def report(self, scrape_s: float) -> None:
        """Report every engine's load, and come back for as long as requests are left."""
        now_s = self.world.now_s
        for endpoint_id, actor in self.engines.items():
            load = actor.engine.load(now_s)
            self.send(self.placement.reported(endpoint_id, load, now_s))
        if self.left:
            self.world.at(round(scrape_s * 1e9), partial(self.report, scrape_s))

    def after(self, delay_s: float, action: Callable[[float], Sequence[Placed]]) -> None:
        """Call ``action`` with the time after ``delay_s`` and send what it returns."""
        self.world.at(round(delay_s * 1e9), lambda: self.send(action(self.world.now_s)))

    def truth(self, endpoint_id: EndpointId) -> EngineTruth:
        """Return what an engine has now."""
        engine = self.engines[endpoint_id].engine
        return EngineTruth(
            engine.running,
            engine.waiting,
            engine.kv_used_ratio,
            engine.pending_prefill_tokens,
            engine.resident_tokens,
        )

    def _finished(self, endpoint_id: EndpointId, ended: Finished) -> None:
        live = self.live[ended.request_id]
        if live.reply_at is not None:
            self._hand_over(live, ended, live.reply_at)
            return
        first_s, cached_tokens = live.first_s, ended.cached_tokens
        assert first_s is not None
        if live.prefill_cached_tokens is not None:  # as vLLM's second engine reports it
            cached_tokens = live.prefill_cached_tokens
        usage = Usage(ended.prompt_tokens, ended.output_tokens, cached_tokens)
        self._record(ended.request_id, first_s, usage, Outcome.SERVED, endpoint_id)
        self.send(self.placement.ended(ended.request_id, usage, self.world.now_s))

    def _hand_over(self, live: _Live, ended: Finished, reply_at: EndpointId) -> None:
        """Send the second engine what the first has computed the prompt of."""
        assert isinstance(self.placement, Splitting)
        live.reply_at, live.prefill_cached_tokens = None, ended.cached_tokens
        usage = Usage(ended.prompt_tokens, ended.output_tokens, ended.cached_tokens)
        self.world.note(f"hand over {ended.request_id}")
        self._add(reply_at, replace(live.engine_request, kv_transfer_tokens=ended.prompt_tokens))
        self.send(self.placement.prefilled(ended.request_id, usage, self.world.now_s))

    def _record(
        self,
        request_id: RequestId,
        first_s: float,
        usage: Usage,
        outcome: Outcome,
        endpoint_id: EndpointId,
    ) -> None:
        self.left -= 1
        arrival_s = self.live.pop(request_id).arrival_s
        served = outcome is Outcome.SERVED
        self.world.note(f"{outcome} {request_id} {usage.cached_tokens}")
        self.records[request_id] = ServedRecord(
            request_id,
            arrival_s=arrival_s,
            ttft_s=first_s - arrival_s if served else 0.0,
            e2e_s=self.world.now_s - arrival_s if served else 0.0,
            usage=usage,
            outcome=outcome,
            endpoint_id=endpoint_id,
        )


def simulate(
    workload: Sequence[TraceRequest],
    *,
    spec: EngineSpec,
    engines: int,
    policy: str,
    seed: int,
) -> TwinResult:
    """Run ``workload`` through the production router over ``engines`` equal engines, to its end.

    Args:
        workload: Requests in order of arrival.
        spec: What each engine is.
        engines: How many, >= 1.
        policy: As in ``router.catalog.POLICIES``.
        seed: Of the router's ties.

    Raises:
        ConfigError: if the policy is unknown, the model does not fit the hardware, or the
            trace's hash runs are not a whole number of KV blocks.

    """
    return run_placement(
        workload, specs=[spec] * engines, placement=ProductionRouter(policy, seed), seed=seed
    )


def run_placement(
    workload: Sequence[TraceRequest],
    *,
    specs: Sequence[EngineSpec],
    placement: Placement,
    seed: int,
) -> TwinResult:
    """Run ``workload`` over one engine per spec, placed by ``placement``, to its end.

    Args:
        workload: Requests in order of arrival.
        specs: The engines; all have blocks of the same size.
        placement: What decides; new, as it keeps state.
        seed: Of the world.

    Raises:
        ConfigError: as ``simulate``.

    """
    started_s = time.perf_counter()
    (block_tokens,) = {spec.block_size for spec in specs}
    twin = _Twin(World(seed), placement, block_tokens, left=len(workload))
    views: list[EndpointView] = []
    for number, spec in enumerate(specs):
        endpoint_id = EndpointId(f"sim-{number:02d}")
        engine = SimEngine(replace(spec, record_events=placement.kv_events))
        twin.engines[endpoint_id] = EngineActor(
            twin.world, engine, partial(twin.stepped, endpoint_id)
        )
        views.append(
            EndpointView(
                endpoint_id,
                f"sim://{endpoint_id}",
                (_MODEL,),
                role=spec.role,
                speed=presumed_speed(spec),
                adapter_slots=spec.max_loras,
            )
        )
    twin.splits = any(spec.role is Role.PREFILL for spec in specs)
    if isinstance(placement, SelfTimed):
        placement.timed(twin.after, twin.call_back)
    placement.begin(views, _scheme(block_tokens), twin.truth)
    ids = [RequestId(f"r{number}") for number in range(len(workload))]
    for number, trace in enumerate(workload):
        arrive = partial(twin.arrive, ids[number], number, trace)
        twin.world.at(round(trace.arrival_s * 1e9), arrive)
    if placement.scrape_s is not None:
        twin.world.at(0, partial(twin.report, placement.scrape_s))
    twin.world.run()
    assert not twin.live, "requests were lost"
    placement.check()
    return TwinResult(
        records=[twin.records[request_id] for request_id in ids],
        digest=twin.world.digest(),
        virtual_s=twin.world.now_s,
        wall_s=time.perf_counter() - started_s,
        engines=[
            EngineTotals(
                endpoint_id,
                counters.busy_s,
                counters.computed_tokens,
                counters.preemptions,
                counters.adapter_loads,
            )
            for endpoint_id, counters in (
                (endpoint_id, actor.engine.counters) for endpoint_id, actor in twin.engines.items()
            )
        ],
    )


def _scheme(block_tokens: int) -> BlockScheme:
    return BlockScheme(block_tokens, "simulated")


def _routing_blocks(trace: TraceRequest, number: int) -> tuple[BlockHash, ...]:
    """Return what the gateway's hashes stand for: the prompt's full routing blocks, by identity.

    Raises:
        ConfigError: the trace's hash runs are not a whole number of routing blocks.

    """
    return tuple(BlockHash(int(key)) for key in block_keys(trace, number, ROUTE_BLOCK_TOKENS))
