"""The production router over simulated engines in virtual time. Pure, apart from a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from headrace.core.endpoint import EndpointView
from headrace.core.errors import InvalidRequest
from headrace.core.ids import BlockHash, EndpointId, ModelName, RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.core.request import RouteRequest
from headrace.simulator.engine import Finished, SimEngine, StepResult
from headrace.simulator.fleet import EngineActor
from headrace.simulator.spec import EngineSpec
from headrace.simulator.speed import presumed_speed
from headrace.simulator.trace import TraceRequest
from headrace.simulator.workload import block_keys, engine_request
from headrace.simulator.world import World
from router.router import Router

ROUTE_BLOCK_TOKENS = 64
"""Tokens per routing block: the gateway hashes 256 bytes, and a simulated token is 4."""

_MODEL = ModelName("sim")


@dataclass(frozen=True, slots=True)
class TwinResult:
    """What a run gave: one record per request in order of arrival, and how long it took.

    ``digest`` hashes every placement and ending with its virtual time: same seed, same digest.
    """

    records: list[ServedRecord]
    digest: str
    virtual_s: float
    wall_s: float


@dataclass(slots=True)
class _Live:
    """One request on its way; the output length stays with its engine (INV-9)."""

    arrival_s: float
    first_s: float | None = None


@dataclass(slots=True)
class _Twin:
    """One run's state: the world, the router and the engines."""

    world: World
    router: Router
    spec: EngineSpec
    engines: dict[EndpointId, EngineActor] = field(default_factory=dict)
    live: dict[RequestId, _Live] = field(default_factory=dict)
    records: dict[RequestId, ServedRecord] = field(default_factory=dict)

    def arrive(self, request_id: RequestId, number: int, trace: TraceRequest) -> None:
        """Place one request and hand it to its engine, as ``gateway.serve`` does."""
        now_s = self.world.now_s
        request = RouteRequest(
            request_id,
            _MODEL,
            trace.prompt_tokens,
            blocks=_routing_blocks(trace, number),
            block_tokens=float(ROUTE_BLOCK_TOKENS),
            max_output_tokens=trace.output_tokens,
        )
        decision = self.router.choose(request, now_s)
        self.router.dispatched(request, decision, now_s)
        self.live[request_id] = _Live(now_s)
        self.world.note(f"place {request_id} {decision.endpoint_id} {decision.ranking[0].cost:.6f}")
        engine = self.engines[decision.endpoint_id]
        try:
            engine.add(engine_request(trace, request_id, number, self.spec.block_size))
        except InvalidRequest:  # longer than the engine can hold: a 400 in real life
            self.router.released(request_id, now_s)
            usage = Usage(trace.prompt_tokens, 0)
            self._record(request_id, 0.0, usage, Outcome.REFUSED_INVALID, decision.endpoint_id)

    def stepped(self, endpoint_id: EndpointId, result: StepResult) -> None:
        """Learn what an engine's step produced, as the gateway does from the streams."""
        for request_id in result.first:
            live = self.live[request_id]
            live.first_s = self.world.now_s
            self.router.first_token(request_id, live.first_s)
        for ended in result.finished:
            self._finished(endpoint_id, ended)

    def _finished(self, endpoint_id: EndpointId, ended: Finished) -> None:
        first_s = self.live[ended.request_id].first_s
        assert first_s is not None
        self.router.released(ended.request_id, self.world.now_s)
        usage = Usage(ended.prompt_tokens, ended.output_tokens, ended.cached_tokens)
        self._record(ended.request_id, first_s, usage, Outcome.SERVED, endpoint_id)

    def _record(
        self,
        request_id: RequestId,
        first_s: float,
        usage: Usage,
        outcome: Outcome,
        endpoint_id: EndpointId,
    ) -> None:
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
    """Run ``workload`` through a router over ``engines`` equal engines, to its end.

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
    started_s = time.perf_counter()
    twin = _Twin(World(seed), Router(policy, seed), spec)
    for number in range(engines):
        endpoint_id = EndpointId(f"sim-{number}")
        twin.engines[endpoint_id] = EngineActor(
            twin.world, SimEngine(spec), partial(twin.stepped, endpoint_id)
        )
    speed = presumed_speed(spec)
    twin.router.set_endpoints(
        EndpointView(endpoint_id, f"sim://{endpoint_id}", (_MODEL,), speed=speed)
        for endpoint_id in twin.engines
    )
    ids = [RequestId(f"r{number}") for number in range(len(workload))]
    for number, trace in enumerate(workload):
        arrive = partial(twin.arrive, ids[number], number, trace)
        twin.world.at(round(trace.arrival_s * 1e9), arrive)
    twin.world.run()
    assert not twin.live, "requests were lost"
    twin.router.check()
    return TwinResult(
        records=[twin.records[request_id] for request_id in ids],
        digest=twin.world.digest(),
        virtual_s=twin.world.now_s,
        wall_s=time.perf_counter() - started_s,
    )


def _routing_blocks(trace: TraceRequest, number: int) -> tuple[BlockHash, ...]:
    """Return what the gateway's hashes stand for: the prompt's full routing blocks, by identity.

    Raises:
        ConfigError: the trace's hash runs are not a whole number of routing blocks.

    """
    return tuple(BlockHash(int(key)) for key in block_keys(trace, number, ROUTE_BLOCK_TOKENS))
