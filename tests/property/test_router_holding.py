"""The router with its queue against a model too simple to be wrong: who is held, who is where."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.core.endpoint import EndpointView, Health, Role
from headrace.core.errors import ModelNotFound, NoEndpoint
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from kvcache.changes import Tier
from router.decide import Decision
from router.held import HoldLimits
from router.reserve import ReplicaId, Reserve
from router.router import Options, Router
from tests.support.routing import SCHEME, SPEED, A, B, C, engine_blocks, request

LIMIT, LONGEST_S = 6, 20.0
EU = (("zone", "eu"),)
OTHER = ReplicaId("g2")

views = st.builds(
    EndpointView,
    st.just(A),
    st.just("http://x"),
    st.sampled_from([("m",), ("n",), ("m", "n")]).map(lambda names: tuple(map(ModelName, names))),
    role=st.sampled_from([Role.BOTH, Role.BOTH, Role.BOTH, Role.PREFILL]),
    health=st.sampled_from([Health.READY, Health.READY, Health.DRAINING, Health.DOWN]),
    speed=st.just(SPEED),
    labels=st.sampled_from([(), EU]),
)
requests = st.builds(
    request,
    st.just("r"),
    st.sampled_from([10, 1_000, 5_000, 60_000, 110_000]),
    st.integers(0, 3),
    model=st.sampled_from(["m", "m", "n"]),
    told=st.booleans(),
    priority=st.integers(0, 1),
    labels=st.sampled_from([(), (), EU]),
)
endpoints = st.sampled_from([A, B, C])
waits = st.sampled_from([0.0, 0.01, 0.3, 2.0])


class HoldingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        hold = HoldLimits(requests=LIMIT, longest_s=LONGEST_S)
        self.router = Router(options=Options(seed=3, hold=hold))
        self.views: dict[EndpointId, EndpointView] = {}
        self.now_s = 0.0
        self.count = 0
        self.held: dict[RequestId, tuple[RouteRequest, frozenset[EndpointId], float]] = {}
        self.where: dict[RequestId, EndpointId] = {}
        self.remote: dict[RequestId, EndpointId] = {}
        self.set_endpoints(
            {e: EndpointView(e, "http://x", (ModelName("m"),), speed=SPEED) for e in (A, B, C)}
        )

    def may(self, asked: RouteRequest, exclude: frozenset[EndpointId]) -> set[EndpointId]:
        return {
            e
            for e, view in self.views.items()
            if asked.model in view.models
            and view.health is Health.READY
            and view.role is not Role.PREFILL
            and set(asked.labels) <= set(view.labels)
            and e not in exclude
        }

    def sent(self, asked: RouteRequest, decision: Decision, may: set[EndpointId]) -> None:
        """Check a placement and enter it."""
        assert decision.endpoint_id in may
        assert decision.ranking[0].endpoint_id == decision.endpoint_id
        assert {terms.endpoint_id for terms in decision.ranking} <= may
        assert asked.request_id not in self.where
        self.where[asked.request_id] = decision.endpoint_id

    def idle(self, endpoints: set[EndpointId]) -> set[EndpointId]:
        busy = {*self.where.values(), *self.remote.values()}
        return endpoints - busy

    @rule(asked=requests, exclude=st.sets(endpoints, max_size=1).map(frozenset), wait=waits)
    def place(self, asked: RouteRequest, exclude: frozenset[EndpointId], wait: float) -> None:
        self.now_s += wait
        self.count += 1
        asked = replace(asked, request_id=RequestId(f"r{self.count}"))
        may = self.may(asked, exclude)
        try:
            decision = self.router.place(asked, self.now_s, exclude)
        except ModelNotFound:
            assert not any(asked.model in view.models for view in self.views.values())
            return
        except NoEndpoint:
            assert not may
            return
        assert may
        if decision is None:
            assert not self.idle(may), "held while an endpoint was idle"
            assert len(self.held) < LIMIT
            self.held[asked.request_id] = (asked, exclude, self.now_s)
        else:
            self.sent(asked, decision, may)

    @rule(wait=waits)
    def placed(self, wait: float) -> None:
        self.now_s += wait
        for asked, decision in self.router.placed(self.now_s):
            asked_before, exclude, since_s = self.held.pop(asked.request_id)
            assert asked_before is asked
            may = self.may(asked, exclude)
            if decision is None:
                assert not may
                assert self.now_s - since_s >= LONGEST_S
            else:
                self.sent(asked, decision, may)
        for asked, exclude, since_s in self.held.values():
            assert self.now_s - since_s < LONGEST_S
            idle = self.idle(self.may(asked, exclude))
            assert not idle or self.waits_for_better(asked, exclude, idle, since_s), (
                "held while an endpoint is idle that costs less than the wait"
            )

    def waits_for_better(
        self,
        asked: RouteRequest,
        exclude: frozenset[EndpointId],
        idle: set[EndpointId],
        since_s: float,
    ) -> bool:
        """Whether each idle endpoint still costs more than the best one and the wait for it."""
        candidates = self.router.candidates(asked, self.now_s, exclude)
        ranking = self.router._decide(asked, candidates, 0).ranking
        costs = {terms.endpoint_id: terms.cost for terms in ranking}
        more_ms = min(costs[e] for e in idle) - min(costs.values())
        return more_ms > (self.now_s - since_s) * 1_000.0

    @precondition(lambda self: self.where)
    @rule(data=st.data(), wait=waits)
    def first_token(self, data: st.DataObject, wait: float) -> None:
        self.now_s += wait
        self.router.first_token(data.draw(st.sampled_from(sorted(self.where))), self.now_s)

    @precondition(lambda self: self.where)
    @rule(data=st.data(), wait=waits, cached=st.none() | st.integers(0, 10), again=st.booleans())
    def release(self, data: st.DataObject, wait: float, cached: int | None, again: bool) -> None:
        self.now_s += wait
        request_id = data.draw(st.sampled_from(sorted(self.where)))
        del self.where[request_id]
        usage = None if cached is None else Usage(10, 5, cached)
        for _ in range(1 + again):
            self.router.released(request_id, self.now_s, usage)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        names = sorted({*self.held, *self.where, RequestId("nobody")})
        request_id = data.draw(st.sampled_from(names))
        assert self.router.withdraw(request_id) is (request_id in self.held)
        self.held.pop(request_id, None)

    @rule()
    def stranded(self) -> None:
        lost = {asked.request_id for asked in self.router.stranded()}
        assert lost == {
            name for name, (asked, exclude, _) in self.held.items() if not self.may(asked, exclude)
        }
        for name in lost:
            del self.held[name]

    @rule(found=st.dictionaries(endpoints, views, max_size=3))
    def set_endpoints(self, found: dict[EndpointId, EndpointView]) -> None:
        self.views = {e: replace(view, endpoint_id=e) for e, view in found.items()}
        self.router.set_endpoints(self.views.values())

    @rule(e=endpoints, head=st.integers(0, 3), what=st.integers(0, 3))
    def event(self, e: EndpointId, head: int, what: int) -> None:
        prefixes = self.router.prefixes
        if what == 0:
            prefixes.scheme(e, SCHEME)
        elif what == 1:
            prefixes.scheme(e, None)
        elif what == 2:
            prefixes.stored(e, Tier.GPU, engine_blocks(1_000, head), None)
        else:
            prefixes.removed(e, Tier.GPU, engine_blocks(500, head))

    @rule(e=endpoints, decoding=st.booleans())
    def another_replica_sends(self, e: EndpointId, decoding: bool) -> None:
        self.count += 1
        name = RequestId(f"r{self.count}")
        reserve = Reserve(name, e, 2_000.0, 2_256.0, self.now_s, decoding=decoding)
        self.router.others.remote_dispatched(OTHER, reserve)
        self.remote[name] = e

    @rule(data=st.data(), all_of_them=st.booleans())
    def another_replica_ends(self, data: st.DataObject, all_of_them: bool) -> None:
        if all_of_them:
            self.router.others.remote_lost(OTHER, self.now_s)
            self.remote.clear()
        elif self.remote:
            name = data.draw(st.sampled_from(sorted(self.remote)))
            self.router.others.remote_first_token(OTHER, name, self.now_s)
            self.router.others.remote_released(OTHER, name, self.now_s)
            del self.remote[name]

    @invariant()
    def books_balance(self) -> None:
        self.router.check()
        assert self.router.held == len(self.held) <= LIMIT
        everyone = [*self.where.values(), *self.remote.values()]
        for e in (A, B, C):
            assert self.router.inflight(e) == everyone.count(e)

    def teardown(self) -> None:
        for request_id in self.where:
            self.router.released(request_id, self.now_s)
        self.router.others.remote_lost(OTHER, self.now_s)
        self.where.clear()
        self.remote.clear()
        self.now_s += LONGEST_S
        self.placed(0.0)
        assert self.router.held == 0
        for request_id in self.where:
            self.router.released(request_id, self.now_s)
        assert all(self.router.inflight(e) == 0 for e in (A, B, C))
        self.router.check()


TestHolding = HoldingMachine.TestCase
TestHolding.settings = settings(max_examples=40, deadline=None)
