from __future__ import annotations

import pytest

from headrace.core.endpoint import EndpointView
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from router.policy import Candidate
from router.reserve import ReplicaId, Reserve
from router.router import Router
from router.unseen import BOTH_WAYS, MEMORY_S, SLACK_TOKENS, Unseen

A, B = ReplicaId("a"), ReplicaId("b")
E = [EndpointId(f"e{i}") for i in range(4)]


def charged(
    unseen: Unseen, endpoint_id: EndpointId, now_s: float, cached_tokens: float = 0.0
) -> float:
    """What is added to the queue of one endpoint, beside one that holds nothing."""
    made = [
        Candidate(e, tokens, 0, 0, 0.0, 0.0, 1_000, 1.0, 1.0)
        for e, tokens in ((endpoint_id, cached_tokens), (EndpointId("x"), 0.0))
    ]
    unseen.charge(made, now_s)
    assert made[1].queued_ms == 0.0
    return made[0].queued_ms


def test_one_replica_alone_expects_nothing() -> None:
    unseen = Unseen()
    unseen.endpoints(E)
    unseen.sent(1_000.0, 0.0)
    assert [charged(unseen, e, 0.0) for e in E] == [0.0] * 4
    unseen.together(A, (), 0.02)
    assert [charged(unseen, e, 0.0) for e in E] == [0.0] * 4


def test_replicas_divide_the_endpoints_without_a_word() -> None:
    mine: list[set[EndpointId]] = []
    for own, other in ((A, B), (B, A)):
        unseen = Unseen()
        unseen.together(own, [other], 0.02)
        unseen.endpoints(reversed(E))
        unseen.sent(1_000.0, 0.0)
        mine.append({e for e in E if charged(unseen, e, 0.0) == 0.0})
    assert mine == [{E[0], E[2]}, {E[1], E[3]}]


def test_what_is_expected_elsewhere_is_the_work_that_others_send_in_the_delay() -> None:
    unseen = Unseen()
    unseen.endpoints(E)
    unseen.together(A, [B], 0.02)
    for second in range(100):  # two requests of 250 ms each second, for long
        unseen.sent(250.0, float(second))
        unseen.sent(250.0, second + 0.5)
    assert charged(unseen, E[1], 99.5) == pytest.approx(BOTH_WAYS * 0.02 * 500.0, rel=0.05)
    assert charged(unseen, E[1], 99.5 + 5 * MEMORY_S) < 0.2, "others fell silent"


def test_when_the_others_leave_or_more_come_the_endpoints_are_divided_anew() -> None:
    unseen = Unseen()
    unseen.endpoints(E)
    unseen.sent(1_000.0, 0.0)
    unseen.together(B, [A], 0.02)
    assert charged(unseen, E[0], 0.0) > 0.0
    unseen.together(B, [A, ReplicaId("c"), ReplicaId("d")], 0.02)
    assert [charged(unseen, e, 0.0) == 0.0 for e in E] == [False, True, False, False]
    unseen.together(B, [], 0.02)
    assert charged(unseen, E[0], 0.0) == 0.0
    unseen.together(B, [A], 0.0)
    assert charged(unseen, E[0], 0.0) == 0.0, "news that take no time leave nothing unseen"


def test_who_holds_more_of_the_prompt_than_others_is_left_alone() -> None:
    unseen = Unseen()
    unseen.endpoints(E)
    unseen.together(A, [B], 0.02)
    unseen.sent(1_000.0, 0.0)
    assert charged(unseen, E[1], 0.0, cached_tokens=SLACK_TOKENS) > 0.0
    assert charged(unseen, E[1], 0.0, cached_tokens=SLACK_TOKENS + 1) == 0.0
    unseen.charge([], 0.0)


def test_two_routers_that_believe_the_same_choose_differently() -> None:
    chosen = set()
    for own, other in ((A, B), (B, A)):
        router = Router()
        router.set_endpoints(EndpointView(e, f"http://{e}", (ModelName("m"),)) for e in E)
        router.others.together(own, [other], 0.02)
        for number in range(20):
            reserve = Reserve(RequestId(str(number)), E[0], 4_000.0, 5_000.0, number / 10)
            router.others.remote_dispatched(other, reserve)
            router.others.remote_released(other, reserve.request_id, number / 10)
        request = RouteRequest(RequestId("r"), ModelName("m"), 1_000)
        decision = router.choose(request, 2.0)
        chosen.add(E.index(decision.endpoint_id) % 2)
        assert router.choose(request, 2.0).endpoint_id == decision.endpoint_id
    assert chosen == {0, 1}
