"""The books of a router that splits requests, against a model too simple to be wrong."""

from __future__ import annotations

import json

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.handover import can_be_shared, first_body, second_body
from gateway.openai import Kind
from headrace.core.endpoint import EndpointView, Health, Role
from headrace.core.ids import BlockHash, EndpointId, ModelName, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from router.decide import Decision
from router.router import Options, Router
from tests.support.json_values import nested

M = ModelName("m")
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
NAMES = ("n", "stream", "max_tokens", "tool_choice", "stream_options", "messages", "echo")
ROLES = {
    EndpointId("a"): Role.DECODE,
    EndpointId("b"): Role.BOTH,
    EndpointId("p"): Role.PREFILL,
    EndpointId("q"): Role.PREFILL,
}


class Books(RuleBasedStateMachine):
    """Sends requests by any plan that was costed, and ends them at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router(options=Options(seed=3))
        self.health = dict.fromkeys(ROLES, Health.READY)
        self._set()
        self.where: dict[RequestId, set[EndpointId]] = {}
        self.plan: dict[RequestId, Decision] = {}
        self.now_s = 0.0
        self.count = 0

    def _set(self) -> None:
        self.router.set_endpoints(
            EndpointView(e, f"http://{e}", (M,), role=role, health=self.health[e])
            for e, role in ROLES.items()
        )

    @rule(
        tokens=st.integers(1, 20_000),
        head=st.integers(0, 3),
        wait=st.floats(0, 2),
        stream=st.booleans(),
        data=st.data(),
    )
    def send(self, tokens: int, head: int, wait: float, stream: bool, data: st.DataObject) -> None:
        ready = [e for e, health in self.health.items() if health is Health.READY]
        assume(any(ROLES[e] is not Role.PREFILL for e in ready))
        self.now_s += wait
        self.count += 1
        request = RouteRequest(
            RequestId(f"r{self.count}"),
            M,
            tokens,
            tuple(BlockHash(head * 10_000 + i) for i in range(tokens // 16)),
            first_token_seen=stream,
            may_split=True,
        )
        decision = self.router.choose(request, self.now_s)
        best = decision.ranking[0]
        alone = min(t.cost for t in decision.ranking if t.prefill_id is None)
        assert best.cost <= alone * 1.01
        if best.prefill_id is not None:
            assert best.cost < alone
        chosen = data.draw(st.sampled_from(decision.candidates))
        assert chosen.endpoint_id in ready
        assert ROLES[chosen.endpoint_id] is not Role.PREFILL
        if chosen.prefill_id is not None:
            assert chosen.prefill_id in ready
            assert ROLES[chosen.prefill_id] is Role.PREFILL
        made = Decision(chosen.endpoint_id, chosen, decision.ranking, decision.unit)
        self.router.dispatched(request, made, self.now_s)
        both = {chosen.endpoint_id, chosen.prefill_id} - {None}
        self.where[request.request_id] = {e for e in both if e is not None}
        self.plan[request.request_id] = made

    @precondition(lambda self: self.where)
    @rule(data=st.data(), wait=st.floats(0, 2), told=st.booleans())
    def prefilled(self, data: st.DataObject, wait: float, told: bool) -> None:
        self.now_s += wait
        request_id = data.draw(st.sampled_from(sorted(self.where)))
        self.router.prefilled(request_id, self.now_s, Usage(100, 1, 40) if told else None)
        self.where[request_id] = {self.plan[request_id].endpoint_id}

    @precondition(lambda self: self.where)
    @rule(data=st.data(), wait=st.floats(0, 2))
    def first_token(self, data: st.DataObject, wait: float) -> None:
        self.now_s += wait
        self.router.first_token(data.draw(st.sampled_from(sorted(self.where))), self.now_s)

    @precondition(lambda self: self.where)
    @rule(data=st.data(), again=st.booleans(), told=st.booleans())
    def release(self, data: st.DataObject, again: bool, told: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.where)))
        del self.where[request_id]
        for _ in range(1 + again):
            self.router.released(request_id, self.now_s, Usage(100, 9, 40) if told else None)

    @rule(endpoint=st.sampled_from(sorted(ROLES)), health=st.sampled_from(list(Health)))
    def changes(self, endpoint: EndpointId, health: Health) -> None:
        self.health[endpoint] = health
        self._set()

    @invariant()
    def balance(self) -> None:
        self.router.check()
        for endpoint in ROLES:
            held = sum(endpoint in places for places in self.where.values())
            assert self.router.inflight(endpoint) == held

    def teardown(self) -> None:
        for request_id in self.where:
            self.router.released(request_id, self.now_s)
        assert all(self.router.inflight(e) == 0 for e in ROLES)
        self.router.check()


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=25, deadline=None)


@settings(max_examples=40, deadline=None)
@given(
    members=st.dictionaries(
        st.sampled_from(NAMES) | st.text(max_size=8), nested(SCALARS, NAMES), max_size=8
    )
)
def test_whatever_else_a_body_says_reaches_both_engines(members: dict[str, object]) -> None:
    body = json.dumps({"model": "m", "messages": [], **members}).encode()
    assume(can_be_shared(Kind.CHAT, body))
    whole = json.loads(body)
    second = json.loads(second_body(body, b'{"x":1}'))
    assert {**second, "kv_transfer_params": None} == {**whole, "kv_transfer_params": None}
    first = json.loads(first_body(body))
    assert (first["stream"], first["max_tokens"]) == (False, 1)
    replaced = {"stream", "max_tokens", "kv_transfer_params", "max_completion_tokens"}
    dropped = {"stream_options", "min_tokens", "logprobs", "top_logprobs"}
    for name in whole.keys() - replaced - dropped:
        assert first[name] == whole[name]
