"""How much of a prompt each endpoint holds: its events where there are any, the estimate elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.endpoint import BlockScheme, Health
from headrace.core.ids import EndpointId, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from kvcache.changes import Tier
from kvcache.index import IndexLimits
from router.prefixes import EXPECTED_S, Cached, Prefixes
from tests.support.routing import (
    BLOCK,
    SCHEME,
    SPEED,
    A,
    B,
    C,
    engine_blocks,
    request,
    router,
    view,
)

OTHER = BlockScheme(32, "xxhash")
KV = 100_000


def following(*endpoints: EndpointId) -> Prefixes:
    made = Prefixes()
    for endpoint in endpoints:
        made.scheme(endpoint, SCHEME)
    return made


def tokens(prefixes: Prefixes, asked: RouteRequest, now_s: float = 0.0) -> dict[EndpointId, float]:
    found = prefixes.cached(asked, now_s)
    prefixes.check()
    return {endpoint: cached.tokens for endpoint, cached in found.items()}


TOLD = request("told", 1_600, told=True)
UNTOLD = request("untold", 1_600)
WHOLE = 1_584  # of 1,600: an engine computes the last block again


def test_nothing_is_known_of_anyone_at_first() -> None:
    assert tokens(following(A), TOLD) == {}


def test_what_events_say_beats_what_was_guessed() -> None:
    prefixes = following(A)
    prefixes.sent(A, UNTOLD, KV, 0.0)
    prefixes.sent(B, UNTOLD, KV, 0.0)
    assert tokens(prefixes, UNTOLD) == {A: 1_599, B: 1_599}
    assert tokens(prefixes, TOLD) == {B: 1_599}  # no event says that A has it
    prefixes.stored(A, Tier.GPU, engine_blocks(800), None)
    assert tokens(prefixes, TOLD) == {A: 800, B: 1_599}


def test_a_prompt_that_nobody_tokenised_is_looked_up_in_the_estimate_for_all() -> None:
    prefixes = following(A)
    prefixes.stored(A, Tier.GPU, engine_blocks(1_600), None)
    assert tokens(prefixes, UNTOLD) == {}
    prefixes.sent(A, request("r", 320), KV, 0.0)
    assert tokens(prefixes, UNTOLD) == {A: 320}


def test_an_endpoint_whose_scheme_a_prompt_was_not_hashed_for_is_guessed() -> None:
    prefixes = following(A)
    prefixes.scheme(B, OTHER)
    prefixes.stored(A, Tier.GPU, engine_blocks(160), None)
    prefixes.sent(B, TOLD, KV, 0.0)
    assert tokens(prefixes, TOLD) == {A: 160, B: 1_599}


def test_each_scheme_has_an_index_and_blocks_of_its_own_length() -> None:
    prefixes = following(A)
    prefixes.scheme(B, OTHER)
    prefixes.stored(A, Tier.GPU, [1, 2, 3], None)
    prefixes.stored(B, Tier.GPU, [1, 2, 3], None)
    both = RouteRequest(
        RequestId("r"), TOLD.model, 1_000, engine_blocks={SCHEME: [1, 2, 9], OTHER: [1, 2, 3]}
    )
    assert tokens(prefixes, both) == {A: 32, B: 96}
    assert prefixes.schemes() == {SCHEME, OTHER}
    assert (prefixes.blocks(A), prefixes.blocks(B)) == (3, 3)


def test_the_last_token_of_a_prompt_is_never_cached() -> None:
    prefixes = following(A)
    prefixes.stored(A, Tier.GPU, engine_blocks(1_600), None)
    prefixes.sent(B, TOLD, KV, 0.0)
    assert tokens(prefixes, TOLD) == {A: WHOLE, B: 1_599}
    assert tokens(prefixes, replace(TOLD, prompt_tokens=1_601)) == {A: 1_600, B: 1_600}
    one = RouteRequest(RequestId("r"), TOLD.model, 1, TOLD.blocks[:1], 16.0)
    assert tokens(prefixes, one).get(B, 0.0) == 0.0


def test_lower_tiers_count_but_not_as_on_the_gpu() -> None:
    prefixes = following(A, B)
    blocks = engine_blocks(1_600)
    prefixes.stored(A, Tier.GPU, blocks[:20], None)
    prefixes.stored(A, Tier.CPU, blocks[20:60], blocks[19])
    prefixes.stored(B, Tier.DISK, blocks[:50], None)
    assert prefixes.cached(TOLD, 0.0) == {A: Cached(320.0, 960.0), B: Cached(0.0, 800.0)}
    prefixes.removed(A, Tier.GPU, blocks[:20])
    assert prefixes.cached(TOLD, 0.0) == {B: Cached(0.0, 800.0)}
    prefixes.stored(A, Tier.CPU, blocks[:20], None)
    assert prefixes.cached(TOLD, 0.0)[A] == Cached(0.0, 960.0)


def test_bringing_blocks_from_a_lower_tier_takes_time_that_is_costed() -> None:
    r = router(view(A), view(B))
    for endpoint, tier in ((A, Tier.CPU), (B, Tier.GPU)):
        r.prefixes.scheme(endpoint, SCHEME)
        r.prefixes.stored(endpoint, tier, engine_blocks(1_600), None)
    asked = request("r", 2_000, told=True)
    first, second = r.candidates(asked, 0.0)
    assert first.transfer_ms == pytest.approx(1_600 / SPEED.fetch_tokens_per_s * 1_000)
    assert second.transfer_ms == 0.0
    assert first.cached_tokens == second.cached_tokens == 1_600
    decision = r.choose(asked, 0.0)
    assert decision.endpoint_id == B
    assert dict(decision.ranking[1].parts)["transfer"] == pytest.approx(16.0)


def test_what_was_sent_is_counted_on_until_its_event_comes_or_its_time_is_up() -> None:
    prefixes = following(A)
    prefixes.sent(A, TOLD, KV, 100.0)
    assert tokens(prefixes, TOLD, 100.0) == {A: WHOLE}
    assert prefixes.blocks(A) == 0  # it is not reported yet
    assert tokens(prefixes, TOLD, 99.9 + EXPECTED_S) == {A: WHOLE}
    assert tokens(prefixes, TOLD, 100.0 + EXPECTED_S) == {}


def test_what_was_sent_and_reported_outlives_the_expectation() -> None:
    prefixes = following(A)
    prefixes.sent(A, TOLD, KV, 0.0)
    prefixes.stored(A, Tier.GPU, engine_blocks(800), None)
    assert tokens(prefixes, TOLD, EXPECTED_S) == {A: 800}


@pytest.mark.parametrize("told", [False, True])
def test_what_ends_before_its_first_token_is_counted_on_no_more(*, told: bool) -> None:
    r = router(view(A))
    if told:
        r.prefixes.scheme(A, SCHEME)
    asked = request("r", 1_600, told=told)
    for name, first_token in (("left", False), ("served", True)):
        assert r.place(replace(asked, request_id=RequestId(name)), 0.0) is not None
        if first_token:
            r.first_token(RequestId(name), 1.0)
        r.released(RequestId(name), 1.0)
        (seen,) = r.candidates(asked, 1.0)
        assert (seen.cached_tokens > 0.0) == first_token


def test_what_no_first_token_is_ever_seen_of_is_counted_on() -> None:
    r = router(view(A))
    asked = replace(request("r", 1_600), first_token_seen=False)
    assert r.place(asked, 0.0) is not None
    r.released(RequestId("r"), 0.01, Usage(1_600, 10))
    (seen,) = r.candidates(asked, 1.0)
    assert seen.cached_tokens > 1_500.0


def test_what_was_expected_and_is_removed_is_expected_no_more() -> None:
    prefixes = following(A)
    prefixes.sent(A, TOLD, KV, 0.0)
    prefixes.removed(A, Tier.GPU, engine_blocks(1_600)[10:])
    assert tokens(prefixes, TOLD) == {A: 160}


@pytest.mark.parametrize("how", ["cleared", "forgotten"])
def test_blocks_that_events_say_are_lost_are_claimed_no_more(how: str) -> None:
    prefixes = following(A, B)
    for endpoint in (A, B):
        prefixes.stored(endpoint, Tier.GPU, engine_blocks(800), None)
        prefixes.stored(endpoint, Tier.CPU, engine_blocks(1_600), None)
    prefixes.sent(A, TOLD, KV, 0.0)
    getattr(prefixes, how)(A)
    assert tokens(prefixes, TOLD) == {B: WHOLE}
    prefixes.stored(A, Tier.GPU, engine_blocks(160), None)  # it goes on
    assert tokens(prefixes, TOLD) == {A: 160, B: WHOLE}


def test_a_cleared_cache_clears_the_guess_too() -> None:
    prefixes = following(A)
    prefixes.sent(A, UNTOLD, KV, 0.0)
    prefixes.cleared(A)
    assert tokens(prefixes, UNTOLD) == {}


def test_events_missed_do_not_make_the_guess_worse() -> None:
    prefixes = following(A)
    prefixes.sent(A, UNTOLD, KV, 0.0)
    prefixes.forgotten(A)
    assert tokens(prefixes, UNTOLD) == {A: 1_599}


def test_a_new_life_of_an_engine_holds_nothing_that_was_guessed_of_the_old_one() -> None:
    prefixes = following(A)
    for endpoint in (A, B):
        prefixes.sent(endpoint, UNTOLD, KV, 0.0)
    prefixes.scheme(A, None)
    assert tokens(prefixes, UNTOLD) == {B: 1_599}
    assert prefixes.blocks(A) == 0


def test_an_engine_whose_scheme_is_not_known_may_be_a_new_life_whenever_events_are_lost() -> None:
    prefixes = Prefixes()
    prefixes.sent(A, UNTOLD, KV, 0.0)
    prefixes.forgotten(A)
    assert tokens(prefixes, UNTOLD) == {}


@pytest.mark.parametrize("scheme", [OTHER, None])
def test_a_new_scheme_means_that_nothing_is_held_under_the_old_one(
    scheme: BlockScheme | None,
) -> None:
    prefixes = following(A, B)
    prefixes.stored(A, Tier.GPU, engine_blocks(1_600), None)
    prefixes.stored(B, Tier.GPU, engine_blocks(160), None)
    prefixes.scheme(A, scheme)
    assert tokens(prefixes, TOLD) == {B: 160}
    prefixes.scheme(A, SCHEME)
    assert tokens(prefixes, TOLD) == {B: 160}
    assert prefixes.schemes() == {SCHEME}


def test_the_same_scheme_again_changes_nothing() -> None:
    prefixes = following(A)
    prefixes.stored(A, Tier.GPU, engine_blocks(1_600), None)
    prefixes.scheme(A, SCHEME)
    assert tokens(prefixes, TOLD) == {A: WHOLE}


def test_events_of_an_endpoint_that_is_not_followed_are_dropped() -> None:
    prefixes = following(A)
    prefixes.stored(C, Tier.GPU, engine_blocks(1_600), None)
    prefixes.removed(C, Tier.GPU, engine_blocks(1_600))
    prefixes.cleared(C)
    prefixes.forgotten(C)
    assert tokens(prefixes, TOLD) == {}
    assert prefixes.blocks(C) == 0


def test_of_an_endpoint_that_is_gone_the_guess_is_forgotten_at_once() -> None:
    prefixes = following(A)
    prefixes.sent(A, UNTOLD, KV, 0.0)
    prefixes.answered(A, UNTOLD, 0.0, Usage(1_600, 50, 0))
    prefixes.gone(A)
    assert tokens(prefixes, UNTOLD) == {}
    prefixes.gone(A)
    prefixes.gone(C)
    prefixes.answered(A, UNTOLD, 0.0, Usage(1_600, 50, 0))  # its last reply came after
    assert tokens(prefixes, UNTOLD) == {}


def test_what_events_told_of_an_endpoint_stays_until_whoever_follows_them_says_otherwise() -> None:
    prefixes = following(A)
    prefixes.stored(A, Tier.GPU, engine_blocks(1_600), None)
    prefixes.gone(A)
    assert tokens(prefixes, TOLD) == {A: WHOLE}
    prefixes.forgotten(A)
    prefixes.scheme(A, None)
    assert tokens(prefixes, TOLD) == {}
    assert prefixes.schemes() == set()


def test_the_next_turn_finds_the_reply_of_the_last_one() -> None:
    prefixes = Prefixes()
    first = request("t1", 1_610)  # 100 blocks and 10 tokens
    prefixes.sent(A, first, KV, 0.0)
    prefixes.answered(A, first, 0.0, Usage(1_610, 300))
    second = request("t2", 2_400)
    assert tokens(prefixes, second) == {A: 1_600 + 10 + 300}
    assert tokens(prefixes, request("t3", 1_700)) == {A: 1_699}  # no more than there is of it


def test_a_reply_is_no_news_of_another_endpoint_or_another_prompt() -> None:
    prefixes = Prefixes()
    first = request("t1", 1_600)
    for endpoint in (A, B):
        prefixes.sent(endpoint, first, KV, 0.0)
    prefixes.answered(A, first, 0.0, Usage(1_600, 300))
    assert tokens(prefixes, request("t2", 2_400)) == {A: 1_900, B: 1_600}
    assert tokens(prefixes, request("half", 800)) == {A: 799, B: 799}
    forked = RouteRequest(RequestId("f"), TOLD.model, 2_400, UNTOLD.blocks[:50], 16.0)
    assert tokens(prefixes, forked) == {A: 800, B: 800}


def test_replies_to_prompts_shorter_than_a_block_are_not_remembered() -> None:
    prefixes = Prefixes()
    short = request("t1", BLOCK - 1)
    prefixes.answered(A, short, 0.0, Usage(15, 300))
    assert tokens(prefixes, request("t2", 400)) == {}


def test_what_events_told_and_proved_wrong_does_not_correct_the_guess() -> None:
    prefixes = following(A)
    for endpoint in (A, B):
        prefixes.answered(endpoint, UNTOLD, 0.0, Usage(1_600, 1, 16))  # it reports what it caches
        for _ in range(200):
            prefixes.answered(endpoint, TOLD, 1_000.0, Usage(1_600, 1, 0))
        for head in range(10):
            prefixes.sent(endpoint, request("r", 1_600, head), 16_000, 0.0)
    assert tokens(prefixes, request("x", 1_601, head=0)) == {A: 1_600}  # all ten fit
    assert tokens(prefixes, request("x", 1_601, head=9)) == {A: 1_600, B: 1_600}  # one does


def test_a_capacity_below_one_block_still_holds_one() -> None:
    prefixes = Prefixes()
    prefixes.sent(A, UNTOLD, 3, 0.0)
    assert tokens(prefixes, UNTOLD) == {A: 16}


def test_the_index_keeps_its_bound() -> None:
    prefixes = Prefixes(IndexLimits(blocks=64, expected_blocks=32))
    prefixes.scheme(A, SCHEME)
    for head in range(20):
        prefixes.sent(A, request("r", 1_600, head, told=True), KV, 0.0)
        prefixes.stored(A, Tier.GPU, engine_blocks(320, head), None)
        prefixes.check()
    assert prefixes.blocks(A) <= 64


def test_what_events_told_can_be_kept_and_is_per_scheme() -> None:
    prefixes = following(A)
    prefixes.scheme(B, OTHER)
    prefixes.stored(A, Tier.GPU, [1, 2], None)
    assert prefixes.snapshot().keys() == {SCHEME, OTHER}


def test_a_candidate_says_whether_its_cached_tokens_were_told_or_guessed() -> None:
    r = router(view(A), view(B))
    r.prefixes.scheme(A, SCHEME)
    r.prefixes.stored(A, Tier.GPU, engine_blocks(160), None)
    assert [c.exact for c in r.candidates(TOLD, 0.0)] == [True, False]
    assert [c.exact for c in r.candidates(UNTOLD, 0.0)] == [False, False]


def test_of_an_endpoint_that_went_down_nothing_is_guessed_when_it_comes_back() -> None:
    r = router(view(A), view(B))
    assert r.place(UNTOLD, 0.0, frozenset({B})) is not None
    r.first_token(UNTOLD.request_id, 10)
    r.released(UNTOLD.request_id, 1.0, Usage(1_600, 10))
    asked = request("again", 1_600)
    r.set_endpoints([view(A, health=Health.DRAINING), view(B)])
    r.set_endpoints([view(A), view(B)])
    assert r.choose(asked, 1.0).candidate.cached_tokens == 1_599  # draining loses nothing
    r.set_endpoints([view(A, health=Health.DOWN), view(B)])
    r.set_endpoints([view(A), view(B)])
    assert all(c.cached_tokens == 0.0 for c in r.candidates(asked, 1.0))
    r.check()


def test_a_health_check_that_failed_once_loses_no_events() -> None:
    r = router(view(A), view(B))
    r.prefixes.scheme(A, SCHEME)
    r.prefixes.stored(A, Tier.GPU, engine_blocks(800), None)
    r.set_endpoints([view(A, health=Health.DOWN), view(B)])
    r.prefixes.stored(A, Tier.GPU, engine_blocks(1_600)[50:], engine_blocks(800)[-1])
    r.set_endpoints([view(A), view(B)])
    assert r.choose(TOLD, 0.0).candidate.cached_tokens == WHOLE
