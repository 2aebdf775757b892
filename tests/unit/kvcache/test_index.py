"""What the exact index claims, for whom, and for how long."""

from __future__ import annotations

import msgspec
import pytest

from headrace.core.ids import EndpointId
from kvcache.changes import Tier
from kvcache.hashing import BlockHasher, Scope, external
from kvcache.index import Held, IndexLimits, PrefixIndex
from kvcache.runs import Runs

A, B, C = (EndpointId(name) for name in "abc")
CHAIN = list(range(1_000, 1_300))


def depths(index: PrefixIndex, hashes: list[int], now_s: float = 0.0) -> dict[EndpointId, int]:
    return {e: held.gpu_blocks for e, held in index.longest_prefix(hashes, now_s).items()}


def test_each_endpoint_is_credited_with_its_leading_blocks() -> None:
    index = PrefixIndex()
    index.stored(A, CHAIN)
    index.stored(B, CHAIN[:7])
    index.stored(C, CHAIN[1:])
    assert depths(index, CHAIN) == {A: 300, B: 7}
    assert depths(index, CHAIN[:5]) == {A: 5, B: 5}
    assert depths(index, [*CHAIN[:2], 7, 8]) == {A: 2, B: 2}
    assert depths(index, []) == {}
    assert depths(index, [9]) == {}


def test_a_hole_ends_a_prefix_until_it_is_filled() -> None:
    index = PrefixIndex()
    index.stored(A, CHAIN)
    index.removed(A, [CHAIN[100]])
    assert depths(index, CHAIN) == {A: 100}
    index.stored(A, [CHAIN[100]], parent=CHAIN[99])
    assert depths(index, CHAIN) == {A: 300}
    index.check()


def test_runs_that_evictions_parted_are_joined_by_those_who_look() -> None:
    runs = Runs()
    for bit in (1, 2):
        runs.stored(bit, CHAIN)
    for block in reversed(CHAIN):
        runs.removed(1, [block])
    assert runs.runs == len(CHAIN)
    run = runs.segment(CHAIN, 0)[0]
    for at in range(1, len(CHAIN)):
        joined = runs.joined(run, runs.segment(CHAIN, at)[0], CHAIN, at)
        assert joined is not None
        run = joined
    assert runs.segment(CHAIN, 0) == (run, 2, len(CHAIN))
    assert runs.runs == 1
    runs.check()


def test_runs_of_other_holders_or_other_places_stay_apart() -> None:
    runs = Runs()
    runs.stored(1, CHAIN[:10])
    runs.stored(3, CHAIN[10:20])
    runs.stored(1, CHAIN[30:40])
    first, second, third = (runs.segment(CHAIN, at)[0] for at in (0, 10, 30))
    assert runs.joined(first, second, CHAIN, 10) is None
    assert runs.joined(first, third, CHAIN, 30) is None
    assert runs.joined(first, first, CHAIN, 0) is None


def test_lower_tiers_go_on_where_the_gpu_ends() -> None:
    index = PrefixIndex()
    index.stored(A, CHAIN[:10])
    index.stored(A, CHAIN[8:20], Tier.CPU)
    index.stored(A, CHAIN[20:25], Tier.DISK)
    index.stored(B, CHAIN[:4], Tier.DISK)
    assert index.longest_prefix(CHAIN, 0.0) == {A: Held(10, 25), B: Held(0, 4)}
    index.removed(A, CHAIN[:10])
    assert index.longest_prefix(CHAIN, 0.0) == {B: Held(0, 4)}


def test_blocks_of_other_adapters_and_salts_never_meet() -> None:
    index = PrefixIndex()
    hasher = BlockHasher(16)
    tokens = list(range(160))
    scopes = [
        Scope(),
        Scope("ad", "/one"),
        Scope("ad", "/two"),
        Scope(cache_salt="s"),
        Scope(cache_salt="t"),
    ]
    prompts = [[external(d) for d in hasher.hashes(tokens, scope)] for scope in scopes]
    for number, prompt in enumerate(prompts):
        index.stored(EndpointId(str(number)), prompt)
    for number, prompt in enumerate(prompts):
        assert depths(index, prompt) == {EndpointId(str(number)): 10}


def test_what_is_expected_counts_until_its_time_or_until_the_engine_speaks() -> None:
    index = PrefixIndex()
    index.stored(A, CHAIN[:10])
    index.expect(A, CHAIN[:30], until_s=5.0)
    index.expect(B, CHAIN[:20], until_s=3.0)
    assert depths(index, CHAIN, 1.0) == {A: 30, B: 20}
    assert index.blocks(B) == 0
    assert depths(index, CHAIN, 3.0) == {A: 30}
    index.stored(A, CHAIN[10:25], parent=CHAIN[9])
    assert depths(index, CHAIN, 4.0) == {A: 30}
    assert depths(index, CHAIN, 5.0) == {A: 25}
    index.check()


def test_what_the_engine_dropped_is_no_longer_expected() -> None:
    index = PrefixIndex()
    index.expect(A, CHAIN[:30], until_s=5.0)
    index.removed(A, CHAIN[20:22])
    assert depths(index, CHAIN) == {A: 20}
    index.cleared(A)
    assert depths(index, CHAIN) == {}
    index.check()


def test_what_a_request_called_back_would_have_stored_is_no_longer_expected() -> None:
    index = PrefixIndex()
    index.stored(A, CHAIN[:10])
    index.expect(A, CHAIN[:30], until_s=5.0)
    index.expect(B, CHAIN[:30], until_s=5.0)
    index.unexpect(A, CHAIN[5:])
    index.unexpect(EndpointId("unknown"), CHAIN)
    assert depths(index, CHAIN) == {A: 10, B: 30}
    index.check()


def test_expectations_are_bounded() -> None:
    index = PrefixIndex(IndexLimits(expected_blocks=40))
    index.expect(A, CHAIN, until_s=5.0)
    assert depths(index, CHAIN) == {A: 40}
    index.expect(B, CHAIN[:20], until_s=9.0)
    assert depths(index, CHAIN) == {B: 20}
    index.check()


def test_a_new_endpoint_may_take_a_forgotten_ones_place_but_not_its_blocks() -> None:
    index = PrefixIndex()
    index.stored(A, CHAIN)
    index.stored(A, CHAIN, Tier.CPU)
    index.expect(A, [5, 6], until_s=9.0)
    index.forget(A)
    index.stored(B, CHAIN[:3])
    assert index.longest_prefix(CHAIN, 0.0) == {B: Held(3, 3)}
    assert depths(index, [5, 6]) == {}
    assert index.endpoints() == [B]
    index.forget(C)
    index.check()


def test_beyond_the_limit_what_was_used_last_stays() -> None:
    index = PrefixIndex(IndexLimits(blocks=320))
    index.stored(A, CHAIN[:100])
    index.stored(B, list(range(100)))
    assert depths(index, CHAIN) == {A: 100}  # used
    index.stored(B, list(range(5_000, 5_200)))
    assert depths(index, CHAIN) == {A: 100}
    assert depths(index, list(range(100)))[B] < 100
    assert len(index) <= 320
    index.check()


def test_a_snapshot_restores_what_was_reported() -> None:
    index = PrefixIndex()
    index.stored(A, [2**64 - 1, 5, 6])
    index.stored(B, [2**64 - 1])
    index.stored(B, [7, 8], Tier.DISK)
    index.expect(C, [1, 2, 3], until_s=9.0)
    saved = index.snapshot()
    again = PrefixIndex()
    again.restore(saved)
    assert depths(again, [2**64 - 1, 5, 6]) == {A: 3, B: 1}
    assert again.longest_prefix([7, 8], 0.0) == {B: Held(0, 2)}
    assert depths(again, [1, 2, 3]) == {}
    again.check()
    big = PrefixIndex()
    big.stored(A, list(range(10_000)))
    assert len(big.snapshot()) < 81_000


@pytest.mark.parametrize(
    "saved",
    [
        b"",
        b"nonsense",
        msgspec.msgpack.encode([2, [], {}]),
        msgspec.msgpack.encode([1, ["a"], {"gpu": [[[3], bytes(8)]]}]),
        msgspec.msgpack.encode([1, ["a"], {"gpu": [[[0], bytes(7)]]}]),
        msgspec.msgpack.encode([1, ["a"], {"tape": [[[0], bytes(8)]]}]),
    ],
)
def test_a_damaged_snapshot_is_refused(saved: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        PrefixIndex().restore(saved)


def test_a_run_that_another_endpoint_parts_can_still_be_joined_to_the_next() -> None:
    index = PrefixIndex()
    chain = list(range(1, 11))
    index.stored(A, chain[:4])
    index.stored(A, chain[4:])  # in a run of its own, as its parent is not told
    index.expect(B, chain[:2], 1.0)
    assert index.longest_prefix(chain, 0.0) == {A: Held(10, 10), B: Held(2, 2)}
    index.check()
    assert index.longest_prefix(chain, 0.0) == {A: Held(10, 10), B: Held(2, 2)}
