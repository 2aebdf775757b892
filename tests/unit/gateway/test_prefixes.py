from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gateway.prefixes import ENTRY_BYTES, BlockHashes, Pieces, PrefixCache, TokenArray, chain
from headrace.core.endpoint import BlockScheme
from kvcache.hashing import BASE, BlockHasher, Scope, external

ROOM = 1 << 20


def test_the_longest_known_prefix_is_found_and_kept_longest() -> None:
    cache: PrefixCache[int] = PrefixCache(3 * (ENTRY_BYTES + 8))
    for at in range(3):
        cache.put(bytes([at]), at, 8)
    assert cache.longest([b"\0", b"\1", b"\7", b"\2"]) == [0, 1]
    cache.put(b"\3", 3, 8)
    assert cache.longest([b"\2"]) == []
    assert cache.longest([b"\0", b"\1", b"\3"]) == [0, 1, 3]


def test_the_cache_keeps_its_bound_whatever_is_put_in() -> None:
    cache: PrefixCache[int] = PrefixCache(2_000)
    for at in range(200):
        cache.put(b"%d" % (at % 7), at, at % 900)
        assert cache.size_bytes <= 2_000
    cache.put(b"large", 1, 2_000)
    assert cache.longest([b"large"]) == []


def test_a_key_stands_for_all_parts_up_to_it() -> None:
    assert chain(b"r", [b"a", b"b"])[:1] == chain(b"r", [b"a", b"c"])[:1]
    keys = {*chain(b"r", [b"a", b"b"]), *chain(b"r", [b"b", b"a"]), *chain(b"s", [b"a"])}
    assert len(keys) == 5


def test_only_pieces_never_met_before_are_tokenised() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> list[TokenArray]:
        asked.extend(texts)
        return [np.array([ord(letter) for letter in text], dtype=np.uint32) for text in texts]

    pieces = Pieces(ROOM)
    first = pieces.tokens(b"model", ["ab", "cd", "e"], encode)
    second = pieces.tokens(b"model", ["ab", "cd", "ef", "g"], encode)
    other = pieces.tokens(b"other", ["ab", "x"], encode)
    assert asked == ["ab", "cd", "e", "ef", "g", "ab", "x"]
    assert [len(each) for each in (first, second, other)] == [3, 4, 2]
    assert np.concatenate(second).tolist() == list(b"abcdefg")


@pytest.mark.parametrize("algorithm", ["sha256", "sha256_cbor"])
@pytest.mark.parametrize("block_tokens", [1, 16, 48, 700])
@pytest.mark.parametrize("scope", [BASE, Scope("ad", "/ad", "salt"), Scope(cache_salt="s")])
def test_hashes_are_those_of_the_whole_however_they_were_come_by(
    algorithm: str, block_tokens: int, scope: Scope
) -> None:
    ids = np.random.default_rng(0).integers(0, 2**31, 3_000, dtype=np.uint32)
    hasher = BlockHasher(block_tokens, algorithm, "7")  # type: ignore[arg-type]
    want = [external(digest) for digest in hasher.hashes(ids, scope)]
    hashes = BlockHashes(ROOM)
    scheme = BlockScheme(block_tokens, algorithm, "7")
    for length in (0, 5, 900, 901, 2_000, 3_000, 3_000, 1_500):
        found = hashes.of(ids[:length], scheme, scope)
        assert found is not None
        assert list(found) == want[: length // block_tokens]


def test_scopes_and_schemes_share_nothing() -> None:
    ids = np.arange(2_048, dtype=np.uint32)
    hashes = BlockHashes(ROOM)
    found = [
        hashes.of(ids, scheme, scope)
        for scheme in (BlockScheme(16), BlockScheme(16, "sha256_cbor"), BlockScheme(16, seed="1"))
        for scope in (BASE, Scope(cache_salt="a"), Scope("ad", "/x"), Scope("ad", "/y"))
        for _ in range(2)
    ]
    assert len({tuple(each or ()) for each in found}) == 12


def test_an_algorithm_that_cannot_be_reproduced_gives_no_hashes() -> None:
    assert (
        BlockHashes(ROOM).of(np.arange(64, dtype=np.uint32), BlockScheme(16, "xxhash"), BASE)
        is None
    )
