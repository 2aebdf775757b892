"""Loads of endpoints: what is queued, what engines report of it, what others have in flight."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.ledger import PRESUMED_OUTPUT_TOKENS, PRESUMED_PROMPT_TOKENS, Ledger, resident_tokens
from router.policy import Candidate
from router.router import Router
from router.speed import FIXED_MS
from tests.support.routing import SPEED, A, B, load, prefill_s, request, router, view

STRANGER_MS = 15.0 + PRESUMED_PROMPT_TOKENS * 0.1


def seen(r: Router, now_s: float = 0.0, endpoint: EndpointId = A) -> Candidate:
    """What is believed of an endpoint, by a request that shares nothing."""
    (found,) = (c for c in r.candidates(request("x", 16, 99), now_s) if c.endpoint_id == endpoint)
    return found


def send(r: Router, asked: RouteRequest, now_s: float = 0.0) -> None:
    r.dispatched(asked, r.choose(asked, now_s), now_s)


def report(r: Router, running: int, waiting: int, at_s: float, kv: float = 0.0) -> None:
    r.set_endpoints([view(A, load=load(running, waiting, at_s, kv))])


def test_the_room_a_request_needs_is_its_prompt_and_what_its_reply_may_come_to() -> None:
    assert resident_tokens(request("r", 1_000, output=10)) == 1_010
    assert resident_tokens(request("r", 1_000)) == 1_000 + PRESUMED_OUTPUT_TOKENS
    assert resident_tokens(request("r", 1_000, output=9_999)) == 1_000 + PRESUMED_OUTPUT_TOKENS


def test_a_first_token_out_of_turn_leaves_the_others_queued() -> None:
    r = router(view(A))
    for n in range(3):
        send(r, request(f"r{n}", 5_000, n))
    r.first_token(RequestId("r1"), prefill_s(5_000))
    two_ms = 2_000 * prefill_s(5_000) - FIXED_MS  # of one step, or of steps that follow without gap
    assert seen(r, prefill_s(5_000)).queued_ms == pytest.approx(two_ms)
    assert seen(r).decoding == 1
    for n in range(3):
        r.released(RequestId(f"r{n}"), 2.0)
    r.check()
    assert (seen(r).inflight, seen(r).queued_ms, seen(r).resident_tokens) == (0, 0.0, 0.0)


def test_when_the_oldest_leaves_unserved_the_next_begins_to_be_computed() -> None:
    r = router(view(A))
    send(r, request("r1", 5_000, 1))
    send(r, request("r2", 5_000, 2))
    r.released(RequestId("r1"), 0.3)
    assert seen(r, 0.3).queued_ms == pytest.approx(1_000 * prefill_s(5_000))
    assert seen(r, 0.4).queued_ms == pytest.approx(1_000 * prefill_s(5_000) - 100.0)


def test_a_first_token_or_an_end_of_a_stranger_changes_nothing() -> None:
    r = router(view(A))
    r.first_token(RequestId("nobody"), 1.0)
    r.released(RequestId("nobody"), 1.0)
    r.check()
    assert seen(r).inflight == 0


def test_speed_is_learned_from_the_time_between_first_tokens_not_from_waiting() -> None:
    r = router(view(A))
    took_s = prefill_s(5_000)
    for n in range(10):
        send(r, request(f"r{n}", 5_000, n))
    for n in range(10):
        r.first_token(RequestId(f"r{n}"), took_s * (n + 1))
    assert seen(r).per_token_ms == pytest.approx(0.1, rel=1e-6)
    assert seen(r).fixed_ms == pytest.approx(15.0, rel=1e-3)


def test_requests_of_others_show_in_two_reports_running() -> None:
    r = router(view(A))
    report(r, running=0, waiting=3, at_s=1.0)
    assert seen(r, 1.0).queued_ms == 0.0  # one report may just be of another moment
    report(r, running=0, waiting=2, at_s=2.0)
    assert seen(r, 2.0).queued_ms == pytest.approx(2 * STRANGER_MS)
    report(r, running=0, waiting=0, at_s=3.0)
    assert seen(r, 3.0).queued_ms == 0.0


def test_our_own_requests_in_a_report_are_no_strangers() -> None:
    r = router(view(A))
    for n in range(3):
        send(r, request(f"r{n}", 1_000, n))
    before = seen(r).queued_ms
    report(r, running=1, waiting=2, at_s=1.0)
    report(r, running=1, waiting=2, at_s=2.0)
    assert seen(r).queued_ms == before
    report(r, running=1, waiting=5, at_s=3.0)
    report(r, running=1, waiting=5, at_s=4.0)
    assert seen(r).queued_ms == pytest.approx(before + 3 * STRANGER_MS)


def test_strangers_that_run_are_not_waited_for() -> None:
    r = router(view(A))
    report(r, running=9, waiting=0, at_s=1.0)
    report(r, running=9, waiting=0, at_s=2.0)
    assert seen(r).queued_ms == 0.0


@pytest.mark.parametrize("at_s", [1.0, 2.0])
def test_a_report_that_is_old_or_comes_again_changes_nothing(at_s: float) -> None:
    r = router(view(A))
    report(r, running=0, waiting=0, at_s=2.0)
    report(r, running=0, waiting=7, at_s=at_s)
    report(r, running=0, waiting=7, at_s=at_s)
    report(r, running=0, waiting=7, at_s=at_s)
    assert seen(r).queued_ms == 0.0


def test_reports_show_how_much_kv_requests_share() -> None:
    r = router(view(A))
    for n in range(4):
        send(r, request(f"r{n}", 9_744))  # 10,000 each with their replies, all of one prompt
        r.first_token(RequestId(f"r{n}"), 1.0 + n)
    assert seen(r).resident_tokens == 40_000
    for n in range(30):
        report(r, running=4, waiting=0, at_s=5.0 + n, kv=0.11)
    assert seen(r).resident_tokens == pytest.approx(11_000, rel=0.01)


def test_a_report_of_an_engine_that_still_keeps_requests_waiting_does_not_show_sharing() -> None:
    r = router(view(A))
    for n in range(4):
        send(r, request(f"r{n}", 9_744, n))
    for n in range(30):
        report(r, running=1, waiting=3, at_s=5.0 + n, kv=0.1)
    assert seen(r).resident_tokens == 40_000


@pytest.mark.parametrize(("kv", "least", "most"), [(0.0, 2_000, 2_100), (1.0, 43_900, 44_000)])
def test_what_is_shared_stays_within_bounds(kv: float, least: float, most: float) -> None:
    r = router(view(A))
    for n in range(4):
        send(r, request(f"r{n}", 9_744, n))
        r.first_token(RequestId(f"r{n}"), 1.0 + n)
    for n in range(60):
        report(r, running=4, waiting=0, at_s=5.0 + n, kv=kv)
    assert least <= seen(r).resident_tokens <= most


def test_an_endpoint_that_vanishes_with_requests_in_flight_is_forgotten_when_they_have_ended() -> (
    None
):
    r = router()
    send(r, request("r1", 5_000))
    here = A if r.inflight(A) else B
    other = B if here == A else A
    r.set_endpoints([view(other)])
    assert r.inflight(here) == 1
    r.first_token(RequestId("r1"), 1.0)
    r.released(RequestId("r1"), 2.0)
    r.check()
    assert r.inflight(here) == 0
    r.set_endpoints([view(A, speed=replace(SPEED, prefill_tokens_per_s=1_000.0)), view(other)])
    if here == A:  # what was learned of the one before is gone with it
        assert seen(r).per_token_ms == pytest.approx(1.0)


def test_what_decodes_there_delays_a_prompt_by_what_was_learned_of_it() -> None:
    r = router(view(A))
    now_s = 0.0
    for n in range(
        120
    ):  # every other prompt comes while 400,000 tokens decode, and takes 50 ms more
        busy = n % 2 == 1
        if busy:
            send(r, request(f"big{n}", 399_744, 1_000 + n), now_s)
            now_s += prefill_s(399_744)
            r.first_token(RequestId(f"big{n}"), now_s)
        asked = request(f"r{n}", 2_000 + n % 7 * 500, n)
        send(r, asked, now_s)
        now_s += prefill_s(asked.prompt_tokens) + 0.05 * busy
        r.first_token(asked.request_id, now_s)
        r.released(asked.request_id, now_s)
        r.released(RequestId(f"big{n}"), now_s)
    idle_ms = seen(r, now_s).fixed_ms
    send(r, request("big", 399_744, 5_000), now_s)
    r.first_token(RequestId("big"), now_s + prefill_s(399_744))
    assert seen(r, now_s + 10.0).fixed_ms - idle_ms == pytest.approx(50.0, rel=0.35)


def test_after_sums_that_do_not_come_out_even_an_idle_endpoint_is_as_good_as_new() -> None:
    ledger, fresh = Ledger(), Ledger()
    books, new = ledger.load(A, 10_000.0), fresh.load(A, 10_000.0)
    for n in range(50):
        ledger.dispatched(request(f"r{n}", 1_000 + n), A, cached_tokens=n / 7, now_s=0.0)
    for n in range(50):
        assert ledger.released(RequestId(f"r{n}"), 0.0) == A
        ledger.check()
    assert (books.inflight, books.decoding, books.resident_tokens) == (0, 0, 0.0)
    assert books.queued_ms(0.0) == 0.0
    for one in (ledger, fresh):
        one.dispatched(request("x", 1_000), A, cached_tokens=0.0, now_s=0.0)
        one.dispatched(request("y", 1_000), A, cached_tokens=0.0, now_s=0.0)
    assert books.queued_ms(0.0) == new.queued_ms(0.0)


def test_beyond_its_places_a_request_waits_until_enough_have_ended() -> None:
    r = router(view(A, speed=replace(SPEED, sequences=4)))
    for n in range(6):
        beyond, found = max(0, n - 3), seen(r, 1.0)
        assert found.slot_ms == pytest.approx(beyond / found.sent_per_ms if beyond else 0.0)
        assert found.batch_ratio == n / 4
        send(r, request(f"r{n}", 100, n))
    for n in range(3):
        r.released(RequestId(f"r{n}"), 1.0)
    assert seen(r, 1.0).slot_ms == 0.0


def test_how_many_places_there_are_is_found_out_where_nobody_said() -> None:
    r = router(view(A))
    for n in range(9):
        send(r, request(f"r{n}", 100, n))
    report(r, 6, 3, 1.0)
    assert seen(r, 1.0).slot_ms == seen(r, 1.0).batch_ratio == 0.0
    for n in range(3):
        send(r, request(f"new{n}", 100, n), 1.0)
        r.released(RequestId(f"r{n}"), 1.0)
        report(r, 6, 3, 2.0 + n)
    found = seen(r, 4.0)
    assert found.slot_ms == pytest.approx(4.0 / found.sent_per_ms)  # 9 in flight, 6 places
    assert found.batch_ratio == 9 / 6
