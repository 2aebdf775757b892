from __future__ import annotations

import pytest

from headrace.core.ids import BlockHash, EndpointId
from headrace.core.record import Usage
from kvcache import estimate as module
from kvcache.estimate import GROW, LEAST_CAPACITY, SHRINK, PrefixEstimate

A, B = EndpointId("a"), EndpointId("b")


def blocks(count: int, head: int = 0) -> list[BlockHash]:
    return [BlockHash(1_000 * head + i) for i in range(count)]


def told(estimate: PrefixEstimate, endpoint: EndpointId, *, right: bool, times: int = 1) -> None:
    """The endpoint was believed to hold 1,000 tokens, and did or did not."""
    for _ in range(times):
        estimate.corrected(endpoint, 1_000.0, 1_000 if right else 0)


def capacity(estimate: PrefixEstimate, endpoint: EndpointId, limit_blocks: int = 1_000) -> int:
    """How many blocks it is taken to hold when said to hold ``limit_blocks``."""
    estimate.stored(endpoint, blocks(2 * limit_blocks, head=77), limit_blocks=limit_blocks)
    return estimate.blocks(endpoint)


def reporting(*endpoints: EndpointId) -> PrefixEstimate:
    """An estimate of endpoints that have said that something was cached."""
    made = PrefixEstimate()
    for endpoint in endpoints:
        made.corrected(endpoint, 0.0, 16)
    return made


def test_an_endpoint_is_bounded_by_what_it_is_said_to_hold() -> None:
    estimate = PrefixEstimate()
    assert capacity(estimate, A) == 1_000
    estimate.stored(A, blocks(10), limit_blocks=4)
    assert estimate.longest_prefix(blocks(10)) == {A: 4}  # the beginning is kept
    assert estimate.blocks(A) == 4


def test_what_was_never_computed_is_held_no_more() -> None:
    estimate = PrefixEstimate()
    for endpoint in (A, B):
        estimate.stored(endpoint, blocks(10), limit_blocks=100)
    estimate.unsent(A, blocks(10)[4:])
    estimate.unsent(A, blocks(10, head=3))
    estimate.unsent(EndpointId("unknown"), blocks(10))
    assert estimate.longest_prefix(blocks(10)) == {A: 4, B: 10}
    assert estimate.blocks(A) == 4
    estimate.check()


def test_replies_that_find_less_than_believed_shrink_what_it_is_taken_to_hold() -> None:
    estimate = reporting(A)
    told(estimate, A, right=False, times=10)
    assert capacity(estimate, A) == int(1_000 * SHRINK**10)


def test_replies_that_find_what_was_believed_let_it_recover_but_never_beyond_what_is_said() -> None:
    estimate = reporting(A)
    told(estimate, A, right=False, times=10)
    shrunk = capacity(estimate, A)
    told(estimate, A, right=True, times=20)
    assert shrunk < capacity(estimate, A) < 1_000
    told(estimate, A, right=True, times=1_000)
    assert capacity(estimate, A) == 1_000


def test_ten_right_replies_make_up_for_a_wrong_one() -> None:
    assert SHRINK * GROW**10 < 1.0 < SHRINK * GROW**11


def test_it_is_never_taken_to_hold_less_than_a_tenth() -> None:
    estimate = reporting(A)
    told(estimate, A, right=False, times=10_000)
    assert capacity(estimate, A) == int(1_000 * LEAST_CAPACITY)
    estimate.stored(B, blocks(3), limit_blocks=3)
    tiny = reporting(B)
    told(tiny, B, right=False, times=10_000)
    assert capacity(tiny, B, limit_blocks=3) == 1


@pytest.mark.parametrize(("cached", "right"), [(750, True), (749, False), (1_400, True)])
def test_three_quarters_of_what_was_believed_is_right_enough(cached: int, right: bool) -> None:
    estimate = reporting(A)
    told(estimate, A, right=False, times=10)
    before = capacity(estimate, A)
    for _ in range(5):
        estimate.corrected(A, 1_000.0, cached)
    assert (capacity(estimate, A) > before) is right


def test_an_engine_that_never_says_what_it_cached_is_not_taken_to_cache_nothing() -> None:
    estimate = PrefixEstimate()
    told(estimate, A, right=False, times=100)
    assert capacity(estimate, A) == 1_000


def test_a_reply_of_which_nothing_was_believed_corrects_nothing() -> None:
    estimate = reporting(A)
    for _ in range(100):
        estimate.corrected(A, 0.0, 0)
    assert capacity(estimate, A) == 1_000


def test_one_endpoint_is_not_corrected_by_another() -> None:
    estimate = reporting(A, B)
    told(estimate, A, right=False, times=50)
    assert capacity(estimate, B) == 1_000


def test_what_was_learned_of_an_endpoint_is_forgotten_with_it() -> None:
    estimate = reporting(A)
    told(estimate, A, right=False, times=50)
    estimate.stored(A, blocks(5), limit_blocks=100)
    estimate.answered(A, blocks(5)[-1], 0.0, Usage(80, 10))
    estimate.removed(A)
    assert estimate.reply_tokens(A, blocks(5)[-1]) == 0.0
    told(estimate, A, right=False, times=50)  # the new one has not shown that it reports
    assert capacity(estimate, A) == 1_000
    estimate.check()


def test_a_reply_adds_its_tokens_and_the_rest_of_the_prompt_behind_the_last_block() -> None:
    estimate = PrefixEstimate()
    estimate.stored(A, blocks(5), limit_blocks=100)
    estimate.answered(A, blocks(5)[-1], 7.0, Usage(87, 120))
    assert estimate.reply_tokens(A, blocks(5)[-1]) == 127.0
    assert estimate.reply_tokens(B, blocks(5)[-1]) == 0.0
    assert estimate.reply_tokens(A, blocks(5)[-2]) == 0.0
    estimate.answered(A, blocks(5)[-1], 7.0, Usage(87, 40))  # asked again, answered otherwise
    assert estimate.reply_tokens(A, blocks(5)[-1]) == 47.0


def test_a_reply_of_an_endpoint_that_went_away_is_not_remembered() -> None:
    estimate = PrefixEstimate()
    estimate.stored(A, blocks(5), limit_blocks=100)
    estimate.removed(A)
    estimate.answered(A, blocks(5)[-1], 0.0, Usage(80, 10))
    assert estimate.reply_tokens(A, blocks(5)[-1]) == 0.0
    estimate.check()


def test_only_so_many_replies_are_remembered_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLIES_LIMIT", 10)
    estimate = PrefixEstimate()
    estimate.stored(A, blocks(50), limit_blocks=100)
    for block in blocks(50):
        estimate.answered(A, block, 0.0, Usage(16, 10))
        estimate.answered(A, blocks(1)[0], 0.0, Usage(16, 10))  # asked again and again
        estimate.check()
    kept = [block for block in blocks(50) if estimate.reply_tokens(A, block)]
    assert kept == [blocks(50)[0], *blocks(50)[-9:]]


def test_bits_of_endpoints_that_went_are_used_again() -> None:
    estimate = PrefixEstimate()
    for n in range(100):
        endpoint = EndpointId(f"e{n}")
        estimate.stored(endpoint, blocks(3), limit_blocks=10)
        estimate.stored(A, blocks(2), limit_blocks=10)
        assert estimate.longest_prefix(blocks(3)) == {endpoint: 3, A: 2}
        estimate.removed(endpoint)
        estimate.check()
    assert estimate.longest_prefix(blocks(3)) == {A: 2}
