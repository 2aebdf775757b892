"""Splitting a request: when it pays, what is reserved, and that all of it is given back."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from headrace.core.endpoint import Health, Role, Speed
from headrace.core.ids import EndpointId, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from router.catalog import make_policy
from router.decide import Decision, decide
from router.disaggregation import EACH, half_id, pairs
from router.policy import Candidate
from router.record import (
    PolicyUsed,
    RecordedDecision,
    differences,
    facts_of,
    record_request,
    replay,
)
from router.reserve import Reserve
from router.router import Router
from tests.support.recorded import candidate
from tests.support.routing import SPEED, A, B, C, request, router, view

P, P2 = EndpointId("p"), EndpointId("p2")
SLOW_LINK = replace(SPEED, transfer_tokens_per_s=1_000.0)


def splittable(name: str = "r", tokens: int = 4_096, head: int = 0) -> RouteRequest:
    return replace(request(name, tokens, head), may_split=True)


def fleet(*, speed: Speed = SPEED, prefill: Speed = SPEED) -> Router:
    """One endpoint that only computes prompts, and two for replies."""
    return router(
        view(A, role=Role.DECODE, speed=speed),
        view(B, role=Role.DECODE, speed=speed),
        view(P, role=Role.PREFILL, speed=prefill),
    )


def decoding(made: Router, each: int, now_s: float = 0.0) -> None:
    """Have every endpoint for replies decode so many requests with short prompts."""
    for endpoint in (A, B):
        for i in range(each):
            short = request(f"{endpoint}-{i}", 16, head=50 + i)
            others = frozenset((A, B)) - {endpoint}
            made.dispatched(short, made.choose(short, now_s, others), now_s)
            made.first_token(short.request_id, now_s + 0.01)


def plan(decision: Decision) -> tuple[EndpointId | None, EndpointId]:
    return decision.candidate.prefill_id, decision.endpoint_id


def test_an_idle_endpoint_computes_its_own_prompt() -> None:
    prefill_id, _ = plan(fleet().choose(splittable(), 0.0))
    assert prefill_id is None


def test_a_long_prompt_is_computed_elsewhere_when_many_replies_would_wait_for_it() -> None:
    made = fleet()
    decoding(made, 20)
    decision = made.choose(splittable(), 1.0)
    assert decision.candidate.prefill_id == P
    split, *rest = decision.ranking
    alone = min((terms for terms in rest if terms.prefill_id is None), key=lambda t: t.cost)
    assert dict(alone.parts)["decode"] > dict(split.parts)["transfer"] > 0.0
    assert dict(split.parts)["decode"] == 0.0


def test_a_short_miss_is_not_worth_a_transfer() -> None:
    made = fleet()
    decoding(made, 20)
    assert plan(made.choose(splittable(tokens=32), 1.0))[0] is None


def test_a_slow_link_keeps_the_prompt_where_the_reply_is() -> None:
    made = fleet(speed=SLOW_LINK)
    decoding(made, 20)
    assert plan(made.choose(splittable(), 1.0))[0] is None


def test_a_queue_for_prompts_keeps_them_where_the_reply_is() -> None:
    made = fleet()
    decoding(made, 3)
    plans = []
    for i in range(4):
        asked = splittable(f"r{i}", head=i)
        decision = made.choose(asked, 1.0)
        made.dispatched(asked, decision, 1.0)
        plans.append(plan(decision)[0])
    assert plans[0] == P
    assert None in plans


def test_a_prompt_that_the_second_endpoint_holds_is_not_transferred_nor_split() -> None:
    made = fleet()
    first = splittable("first")
    made.dispatched(first, made.choose(first, 0.0, frozenset({B, P})), 0.0)
    made.first_token(first.request_id, 0.5)
    decoding(made, 20, 1.0)
    assert plan(made.choose(splittable("again"), 2.0)) == (None, A)


@pytest.mark.parametrize("gone", [Health.DRAINING, Health.DOWN])
def test_only_a_ready_endpoint_is_given_prompts(gone: Health) -> None:
    made = router(view(A), view(P, role=Role.PREFILL, health=gone))
    decoding_alone = made.candidates(splittable(), 0.0)
    assert [c.prefill_id for c in decoding_alone] == [None]
    assert made.disaggregates(splittable().model)


def test_an_excluded_endpoint_is_given_no_prompts() -> None:
    assert all(c.prefill_id is None for c in fleet().candidates(splittable(), 0.0, frozenset({P})))


def test_a_request_that_may_not_be_split_is_not() -> None:
    assert all(c.prefill_id is None for c in fleet().candidates(request("r"), 0.0))


@pytest.mark.parametrize("policy", ["least-requests", "random", "round-robin"])
def test_policies_that_do_not_cost_time_do_not_split(policy: str) -> None:
    made = router(view(A), view(P, role=Role.PREFILL), policy=policy)
    assert plan(made.choose(splittable(), 0.0)) == (None, A)
    singles = [candidate("a"), candidate("b")]
    split = [*singles, replace(singles[0], prefill_id=P)]
    decision = decide(splittable(), split, make_policy(policy), Random(0))
    assert [terms.prefill_id for terms in decision.ranking] == [None, None]


def split_of(made: Router, name: str = "r", now_s: float = 1.0) -> Decision:
    """Send a request that is split."""
    asked = splittable(name)
    decision = made.choose(asked, now_s)
    pair = next(c for c in decision.candidates if c.prefill_id is not None)
    chosen = replace(decision, endpoint_id=pair.endpoint_id, candidate=pair)
    made.dispatched(asked, chosen, now_s)
    return chosen


def test_both_are_reserved_and_the_first_is_free_when_the_prompt_is_computed() -> None:
    made = fleet()
    second = split_of(made).endpoint_id
    assert (made.inflight(P), made.inflight(second)) == (1, 1)
    made.prefilled(RequestId("r"), 1.5)
    assert (made.inflight(P), made.inflight(second)) == (0, 1)
    made.first_token(RequestId("r"), 1.6)
    made.released(RequestId("r"), 2.0)
    assert made.inflight(second) == 0
    made.check()


def test_both_are_free_when_the_request_ends_before_its_prompt_is_computed() -> None:
    made = fleet()
    second = split_of(made).endpoint_id
    made.released(RequestId("r"), 1.2)
    made.prefilled(RequestId("r"), 1.3)
    assert (made.inflight(P), made.inflight(second)) == (0, 0)
    made.check()


def test_the_second_endpoint_has_no_prompt_queued_but_room_taken() -> None:
    made = fleet()
    idle = {c.endpoint_id: c for c in made.candidates(request("x", 16, 9), 1.0)}
    second = split_of(made).endpoint_id
    taken = {c.endpoint_id: c for c in made.candidates(request("x", 16, 9), 1.0)}[second]
    assert taken.queued_ms == idle[second].queued_ms == 0.0
    assert taken.resident_tokens >= 4_096
    (pair, *_) = [c for c in made.candidates(splittable("y", head=3), 1.0) if c.prefill_id]
    assert pair.queued_ms > 300.0


def test_a_reply_that_is_not_streamed_decodes_from_the_handover_on() -> None:
    made = fleet()
    asked = replace(splittable(), first_token_seen=False)
    pair = next(c for c in made.candidates(asked, 1.0) if c.prefill_id is not None)
    whole = made.choose(asked, 1.0)
    made.dispatched(asked, replace(whole, endpoint_id=pair.endpoint_id, candidate=pair), 1.0)
    count = {c.endpoint_id: c.decoding for c in made.candidates(request("x", 16), 1.1)}
    assert count[pair.endpoint_id] == 0
    made.prefilled(asked.request_id, 1.5)
    count = {c.endpoint_id: c.decoding for c in made.candidates(request("x", 16), 1.6)}
    assert count[pair.endpoint_id] == 1
    made.released(asked.request_id, 2.0)
    made.check()


def test_both_are_believed_to_hold_the_prompt_afterwards() -> None:
    made = fleet()
    second = split_of(made).endpoint_id
    made.prefilled(RequestId("r"), 1.5, Usage(4_096, 1, 0))
    made.released(RequestId("r"), 2.0, Usage(4_096, 20, 0))
    again = {(c.prefill_id, c.endpoint_id): c for c in made.candidates(splittable("x"), 3.0)}
    assert again[None, second].cached_tokens == 4_095
    assert again[P, second].cached_tokens == 4_095


def test_what_the_first_endpoint_had_cached_does_not_count_against_the_second() -> None:
    """vLLM's second engine reports the cached tokens of the first, which may be none."""
    made = fleet()
    for i in range(8):
        split_of(made, f"r{i}")
        made.released(RequestId(f"r{i}"), 2.0 + i)
    believed = {c.endpoint_id: c.cached_tokens for c in made.candidates(request("x", 4_096), 9.0)}
    second = split_of(made, "last", 9.5).endpoint_id
    made.prefilled(RequestId("last"), 9.8, Usage(4_096, 1, 4_000))
    made.released(RequestId("last"), 10.0, Usage(4_096, 5, 0))
    after = {c.endpoint_id: c.cached_tokens for c in made.candidates(request("x", 4_096), 11.0)}
    assert after[second] >= believed[second]


class Heard:
    """Keeps what an observer is told."""

    def __init__(self) -> None:
        self.open: dict[RequestId, Reserve] = {}
        self.seen: list[Reserve] = []

    def on_dispatched(self, reserve: Reserve) -> None:
        assert reserve.request_id not in self.open
        self.open[reserve.request_id] = reserve
        self.seen.append(reserve)

    def on_first_token(self, request_id: RequestId, now_s: float) -> None:
        pass

    def on_released(self, request_id: RequestId, now_s: float) -> None:
        self.open.pop(request_id, None)


def test_other_replicas_hear_of_both_halves() -> None:
    heard = Heard()
    made = Router(observer=heard)
    made.set_endpoints([view(A, role=Role.DECODE), view(P, role=Role.PREFILL)])
    split_of(made)
    misses = {reserve.endpoint_id: reserve.miss_tokens for reserve in heard.seen}
    assert misses == {A: 0.0, P: 4_096.0}
    made.prefilled(RequestId("r"), 1.5)
    assert set(heard.open) == {RequestId("r")}
    made.released(RequestId("r"), 2.0)
    assert heard.open == {}


def test_an_id_in_flight_is_refused_and_reserves_nothing_more() -> None:
    made = fleet()
    split_of(made)
    with pytest.raises(ValueError, match="in flight"):
        split_of(made)
    assert made.inflight(P) == 1
    made.released(RequestId("r"), 2.0)
    made.check()
    assert made.inflight(P) == 0


def test_held_requests_may_be_split_too() -> None:
    made = fleet()
    decoding(made, 20)
    for i in range(200):
        if made.place(splittable(f"r{i}", 8_192, head=i), 1.0) is None:
            break
    assert made.held == 1
    for endpoint in (A, B):
        for i in range(20):
            made.released(RequestId(f"{endpoint}-{i}"), 1.0)
    for j in range(i):
        made.released(RequestId(f"r{j}"), 1.0)
    decoding(made, 20, 1.0)
    ((_, decision),) = made.placed(70.0)
    assert decision is not None
    assert plan(decision)[0] == P


def test_few_pairs_are_costed_and_the_best_is_among_them() -> None:
    rng = Random(5)

    def some(name: str) -> Candidate:
        return candidate(
            name,
            cached_tokens=float(rng.randrange(0, 4_000)),
            queued_ms=rng.uniform(0, 300),
            resident_tokens=rng.uniform(0, 300_000),
            decoding=0,
        )

    prefilling = [some(f"p{i}") for i in range(7)]
    replying = [replace(some(f"d{i}"), queued_ms=0.0) for i in range(9)]
    rates = [rng.uniform(2e4, 2e5) for _ in replying]
    few = pairs(4_096, prefilling, replying, rates)
    assert len(few) == EACH * EACH
    policy = make_policy("expected-ttft")
    every = [
        pair
        for p in prefilling
        for d, rate in zip(replying, rates, strict=True)
        for pair in pairs(4_096, [p], [d], [rate])
    ]
    least = min(terms.cost for terms in policy.costs(splittable(), every, rng))
    assert min(terms.cost for terms in policy.costs(splittable(), few, rng)) == least


def test_prompts_that_the_second_endpoint_computes_itself_come_first() -> None:
    (pair,) = pairs(1_000, [candidate("p")], [candidate("d", queued_ms=5_000.0)], [1e5])
    assert pair.queued_ms == 5_000.0 - 15.0 - 125.0


def test_the_reply_of_a_pair_needs_a_place_where_it_is_decoded() -> None:
    full = candidate("d", slot_ms=70.0, batch_ratio=0.9, evict_ms=4.0)
    (pair,) = pairs(1_000, [candidate("p", evict_ms=3.0)], [full], [1e5])
    assert (pair.slot_ms, pair.batch_ratio, pair.evict_ms) == (70.0, 0.9, 7.0)


def test_whether_to_split_is_not_left_to_chance() -> None:
    alone = candidate("a")
    policy = make_policy("expected-ttft")
    pair = replace(alone, endpoint_id=C, prefill_id=P, transfer_ms=0.1)
    chosen = {
        decide(splittable(), [alone, pair], policy, Random(seed)).candidate.prefill_id
        for seed in range(20)
    }
    assert chosen == {None}


def test_a_pair_near_the_best_is_not_taken_where_one_alone_costs_less() -> None:
    policy = make_policy("expected-ttft")
    alone = candidate("a", queued_ms=1_000.0)
    best, worse = (
        replace(alone, queued_ms=queued_ms, endpoint_id=C, prefill_id=P)
        for queued_ms in (998.0, 1_002.0)
    )
    chosen = {
        decide(splittable(), [alone, best, worse], policy, Random(seed)).candidate.queued_ms
        for seed in range(20)
    }
    assert chosen == {best.queued_ms}


def test_a_split_is_recorded_and_decided_again() -> None:
    made = fleet()
    decoding(made, 20)
    asked = splittable()
    decision = made.choose(asked, 1.0)
    record = RecordedDecision(
        "r",
        0,
        asked.model,
        1.0,
        "0",
        record_request(facts_of(asked), len(asked.blocks), ()),
        tuple(decision.candidates),
        PolicyUsed("expected-ttft"),
        made.seed,
        decision.unit,
        decision.ranking,
        decision.endpoint_id,
    )
    assert record.prefill_id == P
    assert record.candidate == decision.candidate
    assert differences(record, replay(record)) == []
    alone = replace(record, ranking=record.ranking[1:])
    assert any("was not ranked" in line for line in differences(alone, replay(record)))


def test_a_half_has_an_id_that_no_request_has() -> None:
    assert half_id(RequestId("r")) != RequestId("r")
