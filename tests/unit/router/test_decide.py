from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from typing_extensions import override

from headrace.core.errors import NoEndpoint
from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.decide import Decision, decide, tie_rng
from router.policies.expected_ttft import NEAR_RATIO, ExpectedTtft
from router.policies.least_requests import LeastRequests
from router.policy import Candidate, Policy, Terms
from tests.support.routing import A, B, C, prefill_s, request, router, view


class Priced(Policy):
    """Costs what it was told to."""

    unit = "coins"
    holds = False

    def __init__(self, near_ratio: float, **costs: float) -> None:
        self.near_ratio = near_ratio
        self._costs = costs

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        return [Terms(c.endpoint_id, self._costs[c.endpoint_id]) for c in candidates]


def candidate(endpoint: EndpointId) -> Candidate:
    return Candidate(endpoint, 0.0, 0, 0, 0.0, 0.0, 100_000, 15.0, 0.1)


CANDIDATES = [candidate(e) for e in (A, B, C)]


def choice(policy: Policy, name: str = "r", seed: int = 0, attempt: int = 0) -> Decision:
    return decide(request(name), CANDIDATES, policy, tie_rng(seed, RequestId(name), attempt))


def chosen(policy: Policy, count: int = 300) -> Counter[EndpointId]:
    return Counter(choice(policy, f"r{n}").endpoint_id for n in range(count))


def test_the_least_cost_is_chosen_and_the_rest_ranked() -> None:
    decision = choice(Priced(0.0, a=3.0, b=1.0, c=2.0))
    assert decision.endpoint_id == B
    assert [terms.endpoint_id for terms in decision.ranking] == [B, C, A]
    assert decision.candidate is CANDIDATES[1]
    assert decision.unit == "coins"


def test_equal_costs_are_shared_evenly() -> None:
    counts = chosen(Priced(0.0, a=1.0, b=1.0, c=1.0))
    assert min(counts.values()) > 70
    assert chosen(Priced(0.0, a=0.0, b=0.0, c=7.0)).keys() == {A, B}


def test_costs_that_are_nearly_equal_count_as_equal_for_a_policy_that_says_so() -> None:
    counts = chosen(Priced(0.01, a=100.0, b=100.9, c=101.1))
    assert counts.keys() == {A, B}
    assert min(counts.values()) > 110
    assert chosen(Priced(0.0, a=100.0, b=100.9, c=101.1)).keys() == {A}


def test_whoever_is_chosen_stands_first_and_the_rest_stay_in_order_of_cost() -> None:
    policy = Priced(0.01, a=100.0, b=100.9, c=101.1)
    for n in range(20):
        decision = choice(policy, f"r{n}")
        assert decision.ranking[0].endpoint_id == decision.endpoint_id
        assert [t.endpoint_id for t in decision.ranking[1:]] == [
            e for e in (A, B, C) if e != decision.endpoint_id
        ]


def test_a_tie_is_broken_the_same_way_for_the_same_seed_request_and_attempt() -> None:
    policy = Priced(0.0, a=1.0, b=1.0, c=1.0)
    for n in range(20):
        again = {choice(policy, f"r{n}", seed=5, attempt=2).endpoint_id for _ in range(3)}
        assert len(again) == 1


def test_another_seed_request_or_attempt_may_break_it_otherwise() -> None:
    policy = Priced(0.0, a=1.0, b=1.0, c=1.0)
    assert {choice(policy, seed=n).endpoint_id for n in range(30)} == {A, B, C}
    assert {choice(policy, f"r{n}").endpoint_id for n in range(30)} == {A, B, C}
    assert {choice(policy, attempt=n).endpoint_id for n in range(30)} == {A, B, C}


def test_among_near_costs_the_one_that_served_the_session_is_preferred() -> None:
    here = [CANDIDATES[0], replace(CANDIDATES[1], session_here=True), CANDIDATES[2]]
    policy = Priced(0.01, a=100.0, b=100.9, c=300.0)
    for n in range(20):
        rng = tie_rng(n, RequestId("r"), 0)
        assert decide(request("r"), here, policy, rng).endpoint_id == B


def test_a_session_does_not_outweigh_a_difference_that_matters() -> None:
    here = [CANDIDATES[0], replace(CANDIDATES[1], session_here=True), CANDIDATES[2]]
    policy = Priced(0.01, a=100.0, b=101.1, c=300.0)
    assert decide(request("r"), here, policy, Random(0)).endpoint_id == A


def test_policies_without_a_near_ratio_do_not_care_for_sessions() -> None:
    here = [CANDIDATES[0], replace(CANDIDATES[1], session_here=True), CANDIDATES[2]]
    seen = {decide(request("r"), here, LeastRequests(), Random(n)).endpoint_id for n in range(30)}
    assert seen == {A, B, C}


def test_without_candidates_there_is_no_decision() -> None:
    with pytest.raises(NoEndpoint, match="no endpoint is ready for model 'm'"):
        decide(request("r"), [], ExpectedTtft(), Random(0))


def test_a_cost_that_is_no_number_is_a_bug_and_not_a_choice() -> None:
    with pytest.raises(AssertionError):
        choice(Priced(0.0, a=float("nan"), b=float("nan"), c=float("nan")))
    with pytest.raises(AssertionError):
        choice(Priced(0.0, a=-1.0, b=0.0, c=0.0))


# The same through the router and its default policy.


def test_equal_idle_endpoints_are_all_used() -> None:
    r = router(view(A), view(B), view(C))
    counts = Counter(r.choose(request(f"r{n}", head=n), 0.0).endpoint_id for n in range(150))
    assert min(counts.values()) > 30


def test_the_next_turn_of_a_session_goes_where_the_last_one_went() -> None:
    r = router(view(A), view(B), view(C))
    first = r.place(request("t0", head=0, session="s"), 0.0)
    assert first is not None
    r.first_token(RequestId("t0"), prefill_s(1_024))
    r.released(RequestId("t0"), 0.2)
    for n in range(1, 15):  # prompts that share nothing, so that only the session speaks
        turn = request(f"t{n}", 8, head=n, session="s")
        decision = r.choose(turn, 0.2)
        spread = [terms.cost for terms in decision.ranking]
        assert max(spread) <= min(spread) * (1.0 + NEAR_RATIO)
        assert decision.endpoint_id == first.endpoint_id
        assert decision.candidate.session_here


def test_sessions_of_others_and_requests_without_one_are_not_sticky() -> None:
    r = router(view(A), view(B), view(C))
    assert r.place(request("t0", session="s"), 0.0) is not None
    r.first_token(RequestId("t0"), prefill_s(1_024))
    r.released(RequestId("t0"), 0.2)
    for session in ("t", None):
        seen = {
            r.choose(request(f"{n}", 8, head=n + 1, session=session), 0.2).endpoint_id
            for n in range(30)
        }
        assert seen == {A, B, C}
