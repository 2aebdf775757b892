"""The router's books against a model too simple to be wrong."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.core.endpoint import EndpointView
from headrace.core.ids import BlockHash, EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from router.router import Options, Router

M = ModelName("m")
IDS = [EndpointId(x) for x in "abc"]


class RouterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.router = Router(options=Options(seed=3))
        self.router.set_endpoints(EndpointView(e, f"http://{e}", (M,)) for e in IDS)
        self.where: dict[RequestId, EndpointId] = {}
        self.now_s = 0.0
        self.count = 0

    @rule(tokens=st.integers(1, 5_000), head=st.integers(0, 3), wait=st.floats(0, 2))
    def send(self, tokens: int, head: int, wait: float) -> None:
        self.now_s += wait
        self.count += 1
        blocks = tuple(BlockHash(head * 10_000 + i) for i in range(tokens // 16))
        request = RouteRequest(RequestId(f"r{self.count}"), M, tokens, blocks)
        decision = self.router.choose(request, self.now_s)
        costs = [t.cost for t in decision.ranking]
        assert costs[1:] == sorted(costs[1:])
        assert costs[0] <= min(costs) * 1.01
        assert len(costs) == len(IDS)
        assert decision.ranking[0].endpoint_id == decision.endpoint_id
        assert 0 <= decision.candidate.cached_tokens < tokens
        self.router.dispatched(request, decision, self.now_s)
        self.where[request.request_id] = decision.endpoint_id

    @precondition(lambda self: self.where)
    @rule(data=st.data(), wait=st.floats(0, 2))
    def first_token(self, data: st.DataObject, wait: float) -> None:
        self.now_s += wait
        self.router.first_token(data.draw(st.sampled_from(sorted(self.where))), self.now_s)

    @precondition(lambda self: self.where)
    @rule(data=st.data(), again=st.booleans())
    def release(self, data: st.DataObject, again: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.where)))
        del self.where[request_id]
        for _ in range(1 + again):
            self.router.released(request_id, self.now_s)

    @invariant()
    def books_balance(self) -> None:
        self.router.check()
        for e in IDS:
            assert self.router.inflight(e) == sum(x == e for x in self.where.values())

    def teardown(self) -> None:
        for request_id in self.where:
            self.router.released(request_id, self.now_s)
        assert all(self.router.inflight(e) == 0 for e in IDS)
        self.router.check()


TestRouter = RouterMachine.TestCase
TestRouter.settings = settings(max_examples=60, deadline=None)
