"""The router holds requests while every endpoint is full, and gives them back once each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.endpoint import EndpointView, Health, Role
from headrace.core.errors import ModelNotFound, NoEndpoint
from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.catalog import POLICIES
from router.held import HoldLimits
from router.router import Router
from tests.support.routing import SPEED, A, B, C, request, router, view


def fill(r: Router, *endpoints: EndpointId, now_s: float = 0.0) -> None:
    """Give each a prompt of more than a second."""
    known = {one.endpoint_id for one in r.endpoints()}
    for number, endpoint in enumerate(endpoints):
        model = r.endpoint(endpoint).models[0]
        labels = r.endpoint(endpoint).labels
        asked = request(f"fill-{endpoint}", 10_000, 900 + number, model=model, labels=labels)
        decision = r.choose(asked, now_s, frozenset(known - {endpoint}))
        r.dispatched(asked, decision, now_s)


def end(r: Router, name: str, now_s: float) -> None:
    r.first_token(RequestId(name), now_s)
    r.released(RequestId(name), now_s)


def placed(r: Router, now_s: float) -> list[tuple[str, EndpointId | None]]:
    found = r.placed(now_s)
    r.check()
    return [(q.request_id, None if d is None else d.endpoint_id) for q, d in found]


def hold(r: Router, *requests: RouteRequest, now_s: float = 0.0) -> None:
    before = r.held
    for number, asked in enumerate(requests):
        assert r.place(asked, now_s) is None
        assert r.held == before + number + 1
    r.check()


def test_nothing_is_held_while_any_endpoint_is_open() -> None:
    r = router(view(A), view(B), view(C))
    fill(r, A, C)
    decision = r.place(request("r1"), 0.0)
    assert decision is not None
    assert decision.endpoint_id == B
    assert r.held == 0
    assert r.inflight(B) == 1


def test_an_endpoint_with_little_queued_is_open() -> None:
    r = router(view(A))
    assert r.place(request("r1", 1_000), 0.0) is not None
    assert r.place(request("r2", 1_000, 1), 0.0) is not None  # 115 ms of 250
    assert r.place(request("r3", 1_000, 2), 0.0) is not None  # 217: the step is counted once
    assert r.place(request("r4", 1_000, 3), 0.0) is None  # 318


def test_while_all_are_full_a_request_is_held_and_reserves_nothing() -> None:
    r = router()
    fill(r, A, B)
    hold(r, request("r1"))
    assert (r.inflight(A), r.inflight(B)) == (1, 1)
    assert placed(r, 0.0) == []
    assert r.held == 1


def test_a_held_request_is_placed_once_and_reserved_where_a_place_became_free() -> None:
    r = router()
    fill(r, A, B)
    hold(r, request("r1"))
    end(r, "fill-b", 0.2)
    assert placed(r, 0.2) == [("r1", B)]
    assert (r.held, r.inflight(B)) == (0, 1)
    assert placed(r, 0.2) == []
    end(r, "r1", 0.3)
    end(r, "fill-a", 1.2)
    assert (r.inflight(A), r.inflight(B), r.held) == (0, 0, 0)


def test_a_first_token_makes_room_too() -> None:
    r = router(view(A))
    fill(r, A)
    hold(r, request("r1"))
    r.first_token(RequestId("fill-a"), 1.0)
    assert placed(r, 1.0) == [("r1", A)]


def test_as_time_passes_a_queue_becomes_short_enough() -> None:
    r = router(view(A))
    fill(r, A)
    hold(r, request("r1"))
    assert placed(r, 0.9) == []
    assert placed(r, 1.1) == [("r1", A)]


def test_only_as_many_are_sent_on_as_fill_the_endpoint_again() -> None:
    r = router(view(A))
    fill(r, A)
    hold(r, *(request(f"r{n}", 3_000 - n, n) for n in range(3)))
    end(r, "fill-a", 1.0)
    assert placed(r, 1.0) == [("r2", A)]  # the shortest; 325 ms are enough
    end(r, "r2", 1.4)
    assert placed(r, 1.4) == [("r1", A)]
    assert r.held == 1


def test_priority_decides_who_is_sent_on_first() -> None:
    r = router(view(A))
    fill(r, A)
    hold(r, request("plain", 100, 1), request("urgent", 9_000, 2, priority=1))
    end(r, "fill-a", 30.0)
    assert placed(r, 30.0) == [("urgent", A)]


def test_an_endpoint_whose_kv_would_overflow_is_full_although_nothing_is_queued() -> None:
    r = router(view(A, speed=replace(SPEED, kv_tokens=10_900)))
    fill(r, A)  # 10,256 of 11,445
    r.first_token(RequestId("fill-a"), 1.0)
    hold(r, request("big", 1_000), now_s=1.0)
    assert r.place(request("small", 500), 1.0) is not None
    assert placed(r, 1.0) == []
    end(r, "fill-a", 2.0)
    r.first_token(RequestId("small"), 2.0)
    assert placed(r, 2.0) == [("big", A)]


def test_a_request_that_fits_nowhere_beside_others_is_sent_to_an_idle_endpoint() -> None:
    r = router(view(A, speed=replace(SPEED, kv_tokens=12_000)))
    huge = r.place(request("huge", 50_000), 0.0)  # the engine will refuse it, and say why
    assert huge is not None
    r.released(RequestId("huge"), 0.1)
    assert r.place(request("small", 100), 0.1) is not None
    hold(r, request("big", 12_000), now_s=0.1)
    end(r, "small", 0.2)
    assert placed(r, 0.2) == [("big", A)]


def test_one_that_was_held_too_long_is_sent_where_it_costs_least_full_or_not() -> None:
    r = router(view(A), view(B), hold=HoldLimits(longest_s=5.0))
    fill(r, A, B)
    for n in range(3):  # B is the worse
        more = request(f"more{n}", 60_000, 50 + n)
        r.dispatched(more, r.choose(more, 0.0, frozenset({A})), 0.0)
    more = request("enough", 200_000, 60)
    r.dispatched(more, r.choose(more, 0.0, frozenset({B})), 0.0)
    hold(r, request("r1"), request("r2", 2_000, 3))
    assert placed(r, 4.9) == []
    assert [name for name, _ in placed(r, 5.0)] == ["r1", "r2"]
    assert r.held == 0


def test_beyond_the_bound_requests_are_sent_on_at_once() -> None:
    r = router(view(A), hold=HoldLimits(requests=2))
    fill(r, A)
    hold(r, request("r1"), request("r2"))
    decision = r.place(request("r3"), 0.0)
    assert decision is not None
    assert (r.held, r.inflight(A)) == (2, 2)


def test_a_bound_of_none_never_holds() -> None:
    r = router(view(A), hold=HoldLimits(requests=0))
    fill(r, A)
    assert all(r.place(request(f"r{n}"), 0.0) is not None for n in range(20))
    assert r.inflight(A) == 21


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"expected-ttft"}))
def test_policies_that_know_no_queues_never_hold(policy: str) -> None:
    r = router(view(A), policy=policy)
    fill(r, A)
    assert r.place(request("r1"), 0.0) is not None


def test_one_that_is_withdrawn_never_comes_back() -> None:
    r = router(view(A))
    fill(r, A)
    hold(r, request("r1"))
    assert r.withdraw(RequestId("r1"))
    assert not r.withdraw(RequestId("r1"))
    assert not r.withdraw(RequestId("fill-a"))  # it was sent, not held
    end(r, "fill-a", 1.0)
    assert placed(r, 1.0) == []
    assert r.inflight(A) == 0
    hold_again = r.place(request("r1"), 1.0)
    assert hold_again is not None


def test_requests_whose_model_is_no_longer_served_are_stranded() -> None:
    r = router(view(A, "m"), view(B, "n"))
    fill(r, A, B)
    hold(r, request("m1"), request("n1", model="n"), request("m2"))
    r.set_endpoints([view(B, "n")])
    assert [one.request_id for one in r.stranded()] == ["m1", "m2"]
    assert r.stranded() == []
    assert r.held == 1
    end(r, "fill-b", 1.0)
    assert placed(r, 1.0) == [("n1", B)]


@pytest.mark.parametrize(
    "left",
    [
        [],
        [view(B, "other")],
        [view(A, health=Health.DOWN)],
        [view(A, health=Health.DRAINING)],
        [view(A, role=Role.PREFILL)],
    ],
    ids=["nothing", "another model", "down", "draining", "prefill only"],
)
def test_an_overdue_request_that_nobody_can_serve_comes_back_without_a_decision(
    left: list[EndpointView],
) -> None:
    r = router(view(A))
    fill(r, A)
    hold(r, request("r1"), request("r2"))
    r.set_endpoints(left)
    assert placed(r, 1e6) == [("r1", None), ("r2", None)]
    assert r.held == 0


def test_held_requests_survive_an_endpoint_that_is_down_for_a_moment() -> None:
    r = router(view(A), view(B))
    fill(r, A, B)
    hold(r, request("r1"))
    r.set_endpoints([view(A, health=Health.DOWN), view(B)])
    assert r.stranded() == []
    r.released(RequestId("fill-a"), 0.5)  # as its connection broke
    assert placed(r, 0.5) == []
    r.set_endpoints([view(A), view(B)])
    assert placed(r, 0.6) == [("r1", A)]


def test_a_new_endpoint_takes_held_requests() -> None:
    r = router(view(A))
    fill(r, A)
    hold(r, request("r1"))
    r.set_endpoints([view(A), view(B)])
    assert placed(r, 0.0) == [("r1", B)]


def test_models_are_not_mixed() -> None:
    r = router(view(A, "m"), view(B, "n"))
    fill(r, A, B)
    hold(r, request("m1", 10), request("n1", 50_000, model="n"))
    end(r, "fill-b", 0.5)
    assert placed(r, 0.5) == [("n1", B)]
    assert r.place(request("n2", model="n"), 0.5) is None
    assert r.place(request("m2"), 0.5) is None


def test_an_adapter_is_held_for_those_that_can_load_it() -> None:
    r = router(view(A, "m"), view(B, "m", loadable=("lora",)), view(C, "m", "lora"))
    fill(r, B, C)
    hold(r, request("l1", model="lora"))
    assert r.place(request("m1"), 0.0) is not None  # A is open for the base model
    end(r, "m1", 0.1)
    assert placed(r, 0.1) == []
    end(r, "fill-b", 0.2)
    assert placed(r, 0.2) == [("l1", B)]


def test_labels_are_kept_to() -> None:
    eu, us = (("zone", "eu"),), (("zone", "us"),)
    r = router(view(A, labels=eu), view(B, labels=us))
    fill(r, A, B)
    hold(r, request("r1", labels=eu))
    end(r, "fill-b", 0.5)
    assert placed(r, 0.5) == []
    end(r, "fill-a", 0.6)
    assert placed(r, 0.6) == [("r1", A)]


def test_what_had_failed_a_request_is_not_tried_again_from_the_queue() -> None:
    r = router()
    fill(r, A, B)
    assert r.place(request("r1"), 0.0, frozenset({A}), attempt=1) is None
    end(r, "fill-a", 0.5)
    assert placed(r, 0.5) == []
    end(r, "fill-b", 0.6)
    assert placed(r, 0.6) == [("r1", B)]


def test_an_attempt_that_was_held_is_decided_by_its_own_chance() -> None:
    def choice(attempt: int, *, full: bool) -> EndpointId:
        r = router(view(A), view(B), view(C))
        if not full:
            decision = r.place(request("x"), 0.0, attempt=attempt)
            assert decision is not None
            return decision.endpoint_id
        fill(r, A, B, C)
        assert r.place(request("x"), 0.0, attempt=attempt) is None
        for name in ("fill-a", "fill-b", "fill-c"):
            r.released(RequestId(name), 0.1)
        ((_, endpoint),) = placed(r, 0.1)
        assert endpoint is not None
        return endpoint

    direct = [choice(attempt, full=False) for attempt in range(12)]
    assert len(set(direct)) == 3
    assert [choice(attempt, full=True) for attempt in range(12)] == direct


def test_a_request_that_nobody_could_serve_is_refused_and_not_held() -> None:
    r = router(view(A, health=Health.DRAINING), view(B))
    fill(r, B)
    with pytest.raises(NoEndpoint):
        r.place(request("r1"), 0.0, frozenset({B}))
    with pytest.raises(ModelNotFound):
        r.place(request("r2", model="nope"), 0.0)
    assert r.held == 0


def test_of_several_openings_the_best_for_the_request_is_taken() -> None:
    r = router()
    warm = request("warm", 8_000, 7)
    r.dispatched(warm, r.choose(warm, 0.0, frozenset({A})), 0.0)
    end(r, "warm", 0.8)
    fill(r, A, B, now_s=0.8)
    hold(r, request("again", 8_000, 7), now_s=0.8)
    end(r, "fill-a", 1.0)
    r.released(RequestId("fill-b"), 1.0)
    assert placed(r, 1.0) == [("again", B)]


def test_a_request_waits_for_its_prefix_rather_than_compute_it_again_elsewhere() -> None:
    large = replace(SPEED, kv_tokens=200_000)
    r = router(view(A, speed=large), view(B, speed=large), hold=HoldLimits(kv_ratio=0.95))
    for name, tokens in (("warm", 140_000), ("big", 60_000)):
        asked = request(name, tokens, head=len(name))
        r.dispatched(asked, r.choose(asked, 0.0, frozenset({A})), 0.0)
        r.first_token(RequestId(name), 60.0)
    r.released(RequestId("warm"), 60.0)
    fill(r, A, now_s=60.0)
    again = request("again", 140_000, head=len("warm"))
    warmth = {c.endpoint_id: c.cached_tokens for c in r.candidates(again, 60.0)}
    assert warmth == {A: 0.0, B: 139_999.0}
    hold(r, again, now_s=60.0)
    end(r, "fill-a", 61.0)  # A could take it now; B has no room, but holds the prompt
    assert placed(r, 61.0) == []
    assert placed(r, 120.0) == [("again", B)]  # longest_s has passed


def test_a_held_request_leaves_the_first_opening_to_others_where_its_prefix_is_worth_the_wait() -> (
    None
):
    r = router()
    warm = request("warm", 20_000, head=7)
    r.dispatched(warm, r.choose(warm, 0.0, frozenset({A})), 0.0)
    r.first_token(warm.request_id, 3.0)
    r.released(warm.request_id, 3.0)
    fill(r, A, B, now_s=100.0)
    again = request("again", 20_000, head=7)
    hold(r, again, now_s=100.0)
    end(r, "fill-a", 100.1)
    assert placed(r, 100.1) == []
    other = request("other", 500, head=8)
    assert r.place(other, 100.2) is not None
    end(r, "fill-b", 100.5)
    assert placed(r, 100.5) == [("again", B)]
