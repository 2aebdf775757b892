"""A request that another replica's came before is called back while it is better placed elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.held import HoldLimits
from router.races import LOOKED_AT
from router.reserve import ReplicaId, Reserve
from router.router import Router
from tests.support.routing import SPEED, A, B, C, request, router, view

G1 = ReplicaId("g1")
SENT_S = 10.0
HUGE = replace(SPEED, kv_tokens=10_000_000)


def theirs(endpoint: EndpointId = A, *, at_s: float = 9.99, tokens: float = 5_000.0) -> Reserve:
    return Reserve(RequestId("r1"), endpoint, tokens, tokens + 256.0, at_s)


def sent_to(endpoint: EndpointId, asked: RouteRequest, attempt: int = 0) -> Router:
    """A router of A, B and C that has just sent ``asked`` to one of them."""
    r = router(view(A), view(B), view(C))
    others = frozenset({A, B, C} - {endpoint})
    assert r.place(asked, SENT_S, others, attempt=attempt) is not None
    return r


def recalled(r: Router, now_s: float = 10.02, *exclude: EndpointId) -> list[str]:
    return [asked.request_id for asked in r.recalled(now_s, frozenset(exclude))]


def test_the_later_of_two_that_chose_the_same_endpoint_unawares_is_called_back_once() -> None:
    r = sent_to(A, request("r"))
    r.others.remote_dispatched(G1, theirs())
    assert recalled(r) == ["r"]
    assert recalled(r) == [], "no news since"


def test_placed_again_it_goes_elsewhere_and_stays_there() -> None:
    asked = request("r")
    r = sent_to(A, asked)
    r.others.remote_dispatched(G1, theirs())
    (again,) = r.recalled(10.02)
    r.released(again.request_id, 10.02)
    decision = r.place(again, 10.02, attempt=1)
    assert decision is not None
    assert decision.endpoint_id != A
    r.others.remote_dispatched(G1, replace(theirs(decision.endpoint_id), request_id=RequestId("2")))
    assert recalled(r) == []


def test_the_earlier_one_stays() -> None:
    r = sent_to(A, request("r"))
    r.others.remote_dispatched(G1, theirs(at_s=10.001))
    assert recalled(r) == []


def test_one_that_has_begun_or_ended_stays() -> None:
    r = sent_to(A, request("r"))
    r.others.remote_dispatched(G1, theirs())
    r.first_token(RequestId("r"), 10.01)
    assert recalled(r) == []
    r = sent_to(A, request("r"))
    r.others.remote_dispatched(G1, theirs())
    r.released(RequestId("r"), 10.01)
    assert recalled(r) == []


def test_another_attempt_stays_where_it_is() -> None:
    r = sent_to(A, request("r"), attempt=1)
    r.others.remote_dispatched(G1, theirs())
    assert recalled(r) == []


@pytest.mark.parametrize("tokens", [10.0, 5_000.0])
def test_it_stays_where_no_other_is_better(tokens: float) -> None:
    r = sent_to(A, request("r"))
    for n, endpoint in enumerate((B, C)):
        busy = replace(theirs(endpoint, tokens=6_000.0), request_id=RequestId(f"busy {n}"))
        r.others.remote_dispatched(G1, busy)
    r.others.remote_dispatched(G1, theirs(tokens=tokens))
    assert recalled(r) == []


def test_endpoints_that_rest_are_no_better() -> None:
    r = sent_to(A, request("r"))
    r.others.remote_dispatched(G1, theirs())
    assert recalled(r, 10.02, B, C) == []


def test_news_of_another_endpoint_change_nothing() -> None:
    asked = request("r", 8_192)
    r = sent_to(A, asked)
    r.others.remote_dispatched(G1, replace(theirs(B), blocks=asked.blocks))
    assert recalled(r) == []


def test_of_many_that_lost_at_once_only_the_latest_are_looked_at() -> None:
    r = router(view(A, speed=HUGE), view(B, speed=HUGE), hold=HoldLimits(requests=0))
    for n in range(LOOKED_AT + 5):
        assert r.place(request(f"r{n}", 16), SENT_S + n / 1_000.0, frozenset({B})) is not None
    r.others.remote_dispatched(G1, theirs(tokens=50_000.0))
    assert recalled(r) == [f"r{n}" for n in range(5, LOOKED_AT + 5)]


def test_policies_that_do_not_cost_time_call_nothing_back() -> None:
    r = router(view(A), view(B), policy="least-requests")
    assert r.place(request("r"), SENT_S, frozenset({B})) is not None
    r.others.remote_dispatched(G1, theirs())
    assert recalled(r) == []
