"""What other gateway replicas have in flight counts here, until it ends or they are lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.ids import BlockHash, EndpointId, RequestId
from headrace.core.request import RouteRequest
from kvcache.changes import Tier
from router.held import HoldLimits
from router.policy import Candidate
from router.reserve import ReplicaId, Reserve
from router.router import Options, Router
from tests.support.routing import (
    SCHEME,
    SPEED,
    A,
    B,
    engine_blocks,
    prefill_s,
    request,
    router,
    view,
)

G1, G2 = ReplicaId("g1"), ReplicaId("g2")


def reserve(name: str, endpoint: EndpointId = A, tokens: float = 5_000.0) -> Reserve:
    return Reserve(RequestId(name), endpoint, tokens, tokens + 256.0, dispatched_s=0.0)


def seen(r: Router, now_s: float = 0.0, endpoint: EndpointId = A) -> Candidate:
    (found,) = (c for c in r.candidates(request("x", 16, 99), now_s) if c.endpoint_id == endpoint)
    return found


def test_what_others_have_in_flight_counts_as_load() -> None:
    r = router()
    r.others.remote_dispatched(G1, reserve("r1"))
    assert r.inflight(A) == 1
    assert seen(r).resident_tokens == 5_256
    assert seen(r).queued_ms == pytest.approx(1_000 * prefill_s(5_000), rel=0.01)
    r.others.remote_first_token(G1, RequestId("r1"), 0.5)
    assert (seen(r, 0.5).queued_ms, seen(r, 0.5).decoding) == (0.0, 1)
    r.others.remote_released(G1, RequestId("r1"), 1.0)
    assert r.inflight(A) == 0
    r.check()


def test_one_that_decodes_already_is_not_queued() -> None:
    r = router()
    r.others.remote_dispatched(G1, replace(reserve("r1"), decoding=True))
    assert (seen(r).queued_ms, seen(r).decoding) == (0.0, 1)


def test_replicas_may_use_the_same_request_ids_as_each_other_and_as_we_do() -> None:
    r = router(view(A))
    assert r.place(request("r1", 16), 0.0) is not None
    r.others.remote_dispatched(G1, reserve("r1"))
    r.others.remote_dispatched(G2, reserve("r1"))
    assert r.inflight(A) == 3
    r.others.remote_released(G1, RequestId("r1"), 1.0)
    assert r.inflight(A) == 2
    r.released(RequestId("r1"), 1.0)
    assert r.inflight(A) == 1
    r.check()


def test_losing_a_replica_releases_all_it_had_and_nothing_else() -> None:
    r = router()
    for n in range(5):
        r.others.remote_dispatched(G1, reserve(f"r{n}"))
    r.others.remote_dispatched(G2, reserve("r1"))
    r.others.remote_released(G1, RequestId("r3"), 1.0)
    r.others.remote_lost(G1, 2.0)
    r.others.remote_lost(G1, 2.0)
    assert r.inflight(A) == 1
    r.others.remote_lost(G2, 3.0)
    assert (r.inflight(A), seen(r, 3.0).resident_tokens) == (0, 0.0)
    r.check()


@pytest.mark.parametrize("loading", [False, True])
def test_speed_is_learned_from_others_too_unless_they_waited_for_an_adapter(
    *, loading: bool
) -> None:
    r = router()
    r.others.late(0.1)
    for n in range(40):
        theirs = replace(reserve(f"r{n}"), dispatched_s=10.0 * n, loading=loading)
        r.others.remote_dispatched(G1, theirs)
        r.others.remote_first_token(G1, RequestId(f"r{n}"), 10.0 * n + 2 * prefill_s(5_000))
        r.others.remote_released(G1, RequestId(f"r{n}"), 10.0 * n + 5.0)
    assert (seen(r, 400.0).per_token_ms > 0.18) != loading
    assert (seen(r, 400.0).per_token_ms == 0.1) == loading


def test_nothing_is_learned_from_one_that_decodes_when_first_heard_of() -> None:
    r = router()
    for n in range(40):
        r.others.remote_dispatched(G1, replace(reserve(f"r{n}"), decoding=True))
    assert (seen(r).fixed_ms, seen(r).per_token_ms) == (15.0, 0.1)


def test_an_endpoint_first_heard_of_through_another_replica_is_presumed_as_fast_as_it_is() -> None:
    speed = replace(SPEED, prefill_tokens_per_s=40_000.0)
    r = router(view(A, speed=speed))
    r.others.remote_dispatched(G1, reserve("r1"))
    assert seen(r).per_token_ms == pytest.approx(0.025)


def test_a_faster_clock_of_the_engines_is_kept_to() -> None:
    r = Router("expected-ttft", Options(time_scale=10.0))
    r.set_endpoints([view(A, speed=replace(SPEED, prefill_tokens_per_s=100_000.0))])
    r.others.remote_dispatched(G1, replace(reserve("r1"), dispatched_s=1.0))
    assert seen(r, 1.0).per_token_ms == pytest.approx(0.1)
    whole_ms = seen(r, 1.0).queued_ms
    assert seen(r, 1.01).queued_ms == pytest.approx(whole_ms - 100.0)


def test_an_endpoint_that_we_have_yet_to_find_is_counted_all_the_same() -> None:
    r = router(view(A))
    r.others.remote_dispatched(G1, replace(reserve("r1", B), blocks=(BlockHash(1),)))
    r.check()
    r.set_endpoints([view(A), view(B)])
    assert r.inflight(B) == 1
    r.others.remote_lost(G1, 1.0)
    assert r.inflight(B) == 0
    r.check()


def test_what_their_requests_leave_in_caches_is_known_here() -> None:
    r = router()
    asked = request("mine", 4_096, 7)
    told = replace(reserve("r1", B), blocks=asked.blocks[:100], block_tokens=asked.block_tokens)
    r.others.remote_dispatched(G1, told)
    r.others.remote_first_token(G1, RequestId("r1"), 0.5)
    r.others.remote_released(G1, RequestId("r1"), 1.0)
    decision = r.choose(asked, 1.0)
    assert decision.endpoint_id == B
    assert decision.candidate.cached_tokens == 1_600


def test_engine_blocks_of_their_requests_are_expected_where_events_are_followed() -> None:
    r = router()
    r.prefixes.scheme(B, SCHEME)
    told = replace(reserve("r1", B), engine_blocks={SCHEME: engine_blocks(4_096, 7)[:100]})
    r.others.remote_dispatched(G1, told)
    r.others.remote_first_token(G1, RequestId("r1"), 0.5)
    r.others.remote_released(G1, RequestId("r1"), 1.0)
    decision = r.choose(request("mine", 4_096, 7, told=True), 1.0)
    assert decision.endpoint_id == B
    assert decision.candidate.cached_tokens == 1_600
    r.check()


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("told", [False, True])
def test_what_they_ended_before_its_first_token_is_not_counted_on(
    *, lost: bool, told: bool
) -> None:
    r = router()
    r.prefixes.scheme(B, SCHEME)
    held = engine_blocks(4_096, 7)
    r.prefixes.stored(B, Tier.GPU, held[:50], None)
    asked = request("mine", 4_096, 7, told=told)
    theirs = replace(
        reserve("r1", B, tokens=4_096.0 - 800.0),
        blocks=asked.blocks,
        block_tokens=asked.block_tokens,
        engine_blocks={SCHEME: held},
    )
    r.others.remote_dispatched(G1, theirs)
    assert found(r, asked) == 4_080.0 if told else 4_095.0
    if lost:
        r.others.remote_lost(G1, 0.1)
    else:
        r.others.remote_released(G1, RequestId("r1"), 0.1)
    assert found(r, asked) == 800.0
    r.check()


def found(r: Router, asked: RouteRequest) -> float:
    (there,) = (c for c in r.candidates(asked, 0.1) if c.endpoint_id == B)
    return there.cached_tokens


def test_an_endpoint_full_of_others_requests_holds_ours() -> None:
    r = router(view(A), hold=HoldLimits())
    r.others.remote_dispatched(G1, reserve("r1"))
    assert r.place(request("mine"), 0.0) is None
    r.others.remote_lost(G1, 0.1)
    ((asked, decision),) = r.placed(0.1)
    assert asked.request_id == "mine"
    assert decision is not None
