"""Anything may place requests in the twin; the production router does, over engines of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from typing_extensions import override

from headrace.core.endpoint import BlockScheme, EndpointView, EngineLoad
from headrace.core.ids import EndpointId, RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.simulator.presets import engine_spec
from headrace.simulator.synthetic import synthesize
from headrace.simulator.trace import TraceRequest
from headrace.twin.placement import BlocksChanged, EngineTruth, Placed, Placement
from headrace.twin.production import ProductionRouter
from headrace.twin.run import EVENTS_LAG_S, TwinResult, run_placement
from router.held import HoldLimits
from router.reserve import Reserve, ReserveObserver
from router.router import Options

L4 = engine_spec("L4", "Llama-3.1-8B")
H100 = engine_spec("H100", "Llama-3.1-8B")
SMALL = replace(L4, num_blocks=64)  # 1,024 tokens


class Turns(Placement):
    """Sends requests to the engines in turn, and writes down all that it is told."""

    def __init__(self, *, kv_events: bool = False, scrape_s: float | None = None) -> None:
        self.kv_events = kv_events
        self.scrape_s = scrape_s
        self.calls: list[tuple[str, str, float]] = []
        self.usages: dict[RequestId, Usage] = {}
        self._ids: list[EndpointId] = []
        self._truth: Callable[[EndpointId], EngineTruth] | None = None
        self.seen: list[EngineTruth] = []
        self.checked = False

    @override
    def begin(
        self,
        views: Sequence[EndpointView],
        scheme: BlockScheme,
        truth: Callable[[EndpointId], EngineTruth],
    ) -> None:
        assert not self.calls
        self._ids = [view.endpoint_id for view in views]
        self._truth = truth

    @override
    def submit(self, request: RouteRequest, now_s: float) -> Sequence[Placed]:
        self.calls.append(("submit", request.request_id, now_s))
        assert self._truth is not None
        endpoint = self._ids[len(self.usages) % len(self._ids)]
        self.seen.append(self._truth(endpoint))
        return (Placed(request, endpoint),)

    @override
    def first_token(self, request_id: RequestId, now_s: float) -> Sequence[Placed]:
        self.calls.append(("first", request_id, now_s))
        return ()

    @override
    def ended(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        self.calls.append(("ended", request_id, now_s))
        self.usages[request_id] = usage
        return ()

    @override
    def changed(self, endpoint_id: EndpointId, change: BlocksChanged, now_s: float) -> None:
        self.calls.append(("changed", endpoint_id, now_s))

    @override
    def reported(self, endpoint_id: EndpointId, load: EngineLoad, now_s: float) -> Sequence[Placed]:
        assert load.at_s == now_s
        self.calls.append(("reported", endpoint_id, now_s))
        return ()

    @override
    def check(self) -> None:
        self.checked = True


class Believed(ReserveObserver):
    """Writes down how many tokens each request was to miss."""

    def __init__(self) -> None:
        self.miss_tokens: dict[RequestId, float] = {}

    @override
    def on_dispatched(self, reserve: Reserve) -> None:
        self.miss_tokens[reserve.request_id] = reserve.miss_tokens

    @override
    def on_first_token(self, request_id: RequestId, now_s: float) -> None: ...

    @override
    def on_released(self, request_id: RequestId, now_s: float) -> None: ...


def mean_ttft_s(result: TwinResult) -> float:
    served = [record.ttft_s for record in result.records if record.served]
    return sum(served) / len(served)


def test_a_placement_is_told_everything_once_and_in_order() -> None:
    workload = synthesize("conversation", 1, rate_rps=2.0, duration_s=20.0)
    turns = Turns()
    result = run_placement(workload, specs=[L4, L4], placement=turns, seed=1)
    assert turns.checked
    assert len(result.records) == len(workload)
    for number in range(len(workload)):
        mine = [(what, at_s) for what, name, at_s in turns.calls if name == f"r{number}"]
        assert [what for what, _ in mine] == ["submit", "first", "ended"]
        record = result.records[number]
        times = [at_s for _, at_s in mine]
        assert times[0] == pytest.approx(workload[number].arrival_s, abs=1e-6)
        assert times[1] - times[0] == pytest.approx(record.ttft_s)
        assert times[2] - times[0] == pytest.approx(record.e2e_s)
        assert turns.usages[record.request_id] == record.usage
    assert {what for what, _, _ in turns.calls} == {"submit", "first", "ended"}  # as it asked


def test_reports_come_from_every_engine_at_its_pace_until_all_is_done() -> None:
    workload = [TraceRequest(0.0, 500, 200)]
    turns = Turns(scrape_s=0.5)
    result = run_placement(workload, specs=[L4, L4], placement=turns, seed=1)
    times = [at_s for what, name, at_s in turns.calls if what == "reported" and name == "sim-01"]
    assert times == [0.5 * n for n in range(len(times))]
    assert times[-1] <= result.virtual_s <= times[-1] + 0.5


def test_events_come_a_little_after_the_step_that_made_them() -> None:
    turns = Turns(kv_events=True)
    run_placement([TraceRequest(0.0, 500, 1)], specs=[L4], placement=turns, seed=1)
    (first_s,) = (at_s for what, _, at_s in turns.calls if what == "first")
    changed_s = min(at_s for what, _, at_s in turns.calls if what == "changed")
    assert changed_s == pytest.approx(first_s + EVENTS_LAG_S)


def test_an_oracle_sees_what_an_engine_really_has() -> None:
    turns = Turns()
    workload = [TraceRequest(0.0, 500, 100), TraceRequest(1.0, 500, 100)]
    run_placement(workload, specs=[L4], placement=turns, seed=1)
    idle, busy = turns.seen
    assert idle == EngineTruth(0, 0, 0.0, 0, 0)
    assert busy.running == 1
    assert 500 < busy.resident_tokens < 600
    assert busy.kv_used_ratio > 0.0


def test_unlike_engines_share_the_work_by_their_speed() -> None:
    workload = synthesize("code", 2, rate_rps=24.0, duration_s=15.0)
    specs = [L4, H100, L4]
    result = run_placement(
        workload, specs=specs, placement=ProductionRouter("expected-ttft", 2), seed=2
    )
    assert all(record.served for record in result.records)
    slow, fast, other = (engine.computed_tokens for engine in result.engines)
    assert fast > 3 * max(slow, other)
    assert min(slow, other) > 0
    assert [engine.endpoint_id for engine in result.engines] == ["sim-00", "sim-01", "sim-02"]


def test_a_prompt_longer_than_the_engine_holds_is_refused_and_others_are_served() -> None:
    workload = [TraceRequest(n / 10, 2_000 if n == 3 else 300, 10) for n in range(8)]
    turns = Turns()
    for placement in (turns, ProductionRouter("expected-ttft", 1)):
        result = run_placement(workload, specs=[SMALL], placement=placement, seed=1)
        outcomes = [record.outcome for record in result.records]
        assert outcomes == [Outcome.REFUSED_INVALID if n == 3 else Outcome.SERVED for n in range(8)]
        refused = result.records[3]
        assert (refused.ttft_s, refused.e2e_s) == (0.0, 0.0)
        assert refused.usage == Usage(2_000, 0)
    assert [what for what, name, _ in turns.calls if name == "r3"] == ["submit", "ended"]


@pytest.mark.parametrize("kv_events", [True, False])
def test_the_same_seed_gives_the_same_digest(kv_events: bool) -> None:
    workload = synthesize("bursts", 3, rate_rps=6.0, duration_s=20.0)

    def digest(seed: int) -> str:
        placement = ProductionRouter("expected-ttft", seed, kv_events=kv_events)
        specs = [L4, L4, L4]
        return run_placement(workload, specs=specs, placement=placement, seed=seed).digest

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


@pytest.mark.parametrize(("kv_events", "slack_tokens"), [(True, 0), (False, 64)])
def test_at_low_load_the_router_knows_what_each_prompt_will_find_cached(
    kv_events: bool, slack_tokens: int
) -> None:
    """By events to the token, evictions and all; by the estimate, without them, to a block."""
    seen = synthesize("agents", 5, rate_rps=4.0, duration_s=60.0)
    workload = [replace(one, arrival_s=20.0 * n) for n, one in enumerate(seen)]
    believed = Believed()
    placement = ProductionRouter("expected-ttft", 1, kv_events=kv_events, observer=believed)
    spec = replace(L4, num_blocks=1_600) if kv_events else H100
    result = run_placement(workload, specs=[spec] * 2, placement=placement, seed=1)
    served = [record for record in result.records if record.served]
    assert len(served) > 40
    for record in served:
        cached = record.usage.prompt_tokens - believed.miss_tokens[record.request_id]
        assert abs(cached - record.usage.cached_tokens) <= slack_tokens, record.request_id
    assert sum(record.usage.cached_tokens for record in served) > 100_000


@pytest.mark.parametrize("seed", [0, 2])
def test_under_overload_holding_requests_back_brings_first_tokens_sooner(seed: int) -> None:
    workload = synthesize("code", seed, rate_rps=6.0, duration_s=30.0)

    def run(limits: HoldLimits) -> TwinResult:
        placement = ProductionRouter("expected-ttft", seed, options=Options(hold=limits))
        return run_placement(workload, specs=[L4] * 3, placement=placement, seed=seed)

    held, greedy = run(HoldLimits()), run(HoldLimits(requests=0))
    assert {record.outcome for record in held.records} == {Outcome.SERVED}
    assert mean_ttft_s(held) < mean_ttft_s(greedy)
    assert mean_ttft_s(greedy) > 2.0, "it was not overloaded"
