from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvcache.hashing import BASE, Algorithm, BlockHasher, Scope, external

ALGORITHMS: tuple[Algorithm, ...] = ("sha256", "sha256_cbor")
SCOPES = (BASE, Scope("ad1", "/a/1"), Scope(cache_salt="s"), Scope("ad1", "/a/1", "s"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("scope", SCOPES)
def test_hashing_in_parts_gives_the_same_chain(algorithm: Algorithm, scope: Scope) -> None:
    rng = random.Random(3)
    ids = [rng.randrange(2**31) for _ in range(16 * 6)]
    hasher = BlockHasher(16, algorithm)
    whole = hasher.hashes(ids, scope)
    parts = hasher.hashes(ids[:16], scope)
    for index in range(1, 6):
        block = ids[16 * index : 16 * index + 16]
        parts += hasher.hashes(block, scope, parent=parts[-1], first=index)
    assert parts == whole


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=80), st.integers(1, 40))
def test_the_bulk_cbor_path_equals_the_single_block_path(ids: list[int], size: int) -> None:
    hasher = BlockHasher(size, "sha256_cbor")
    singly: list[bytes] = []
    for index in range(len(ids) // size):
        parent = singly[-1] if singly else None
        block = ids[size * index : size * index + size]
        singly += hasher.hashes(block, parent=parent, first=index)
    assert hasher.hashes(ids) == singly
    assert hasher.hashes(np.array(ids)) == singly


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scopes_never_share_a_block(algorithm: Algorithm) -> None:
    ids = list(range(32))
    hasher = BlockHasher(16, algorithm)
    seen = [digest for scope in SCOPES for digest in hasher.hashes(ids, scope)]
    seen += hasher.hashes(ids, Scope("ad1", "/a/2"))
    assert len(set(seen)) == len(seen)


def test_a_changed_token_changes_every_later_block_and_no_earlier_one() -> None:
    hasher = BlockHasher(4, "sha256_cbor")
    ids = list(range(16))
    before, after = hasher.hashes(ids), hasher.hashes([*ids[:6], 99, *ids[7:]])
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False, False]


def test_a_partial_block_has_no_hash() -> None:
    assert BlockHasher(16).hashes(list(range(15))) == []
    assert len(BlockHasher(16).hashes(list(range(31)))) == 1


def test_the_external_form_is_the_low_64_bits() -> None:
    assert external(bytes(24) + (5).to_bytes(8, "big")) == 5
    assert external(b"\xff" * 32) == 2**64 - 1


def test_a_negative_token_and_a_block_size_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        BlockHasher(1, "sha256_cbor").hashes([1, -1])
    with pytest.raises(ValueError, match="block_size"):
        BlockHasher(0)
