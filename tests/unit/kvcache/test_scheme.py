"""An engine's own events tell how it names its blocks."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.core.endpoint import BlockScheme
from kvcache.events import BlockStored, WireHash
from kvcache.hashing import BASE, Algorithm, BlockHasher, Scope, external
from kvcache.scheme import Guesses, detect

TOKENS = list(range(1000, 1048))


def event(
    scheme: BlockScheme,
    scope: Scope = BASE,
    *,
    whole: bool = False,
    extra: list[tuple[Any, ...] | None] | None = None,
) -> BlockStored:
    algorithm: Algorithm = "sha256" if scheme.algorithm == "sha256" else "sha256_cbor"
    digests = BlockHasher(scheme.block_tokens, algorithm, scheme.seed).hashes(TOKENS, scope)
    names: list[WireHash] = [digest if whole else external(digest) for digest in digests]
    return BlockStored(
        names, None, TOKENS, scheme.block_tokens, None, "GPU", scope.lora_name, extra
    )


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", [None, "42"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha256_cbor"])
@pytest.mark.parametrize("size", [8, 16])
def test_every_scheme_is_told_from_its_first_block(
    size: int, algorithm: str, seed: str | None, whole: bool
) -> None:
    scheme = BlockScheme(size, algorithm, seed)
    assert detect(event(scheme, whole=whole), Guesses(seeds=("7", "42"))) == scheme


def test_a_seed_that_nobody_guesses_is_not_told() -> None:
    assert detect(event(BlockScheme(16, "sha256", "42"))) is None


def test_salts_and_adapters_do_not_stand_in_the_way() -> None:
    scheme = BlockScheme(16, "sha256_cbor")
    salted = event(scheme, Scope(cache_salt="s"), extra=[("s",), None, None])
    assert detect(salted) == scheme
    adapted = event(scheme, Scope("ad", "/ad", "s"), extra=[("ad", "s"), ("ad",), ("ad",)])
    assert detect(adapted) is None
    assert detect(adapted, Guesses(lora_paths={"ad": "/ad"})) == scheme
    assert detect(event(scheme, Scope("ad", ""), extra=[("ad",)] * 3)) == scheme
    assert detect(event(scheme, Scope("ad", "/ad")), Guesses(lora_paths={"ad": "/ad"})) == scheme


def test_what_cannot_tell_is_passed_over() -> None:
    scheme = BlockScheme(16)
    whole = event(scheme)
    inner = BlockStored(whole.block_hashes, 5, TOKENS, 16, None, "GPU", None)
    short = BlockStored(whole.block_hashes, None, TOKENS[:9], 16, None, "GPU", None)
    empty = BlockStored([], None, [], 16, None, "GPU", None)
    sizeless = BlockStored(whole.block_hashes, None, TOKENS, 0, None, "GPU", None)
    negative = BlockStored(whole.block_hashes, None, [-1] * 16, 16, None, "GPU", None)
    huge = BlockStored(whole.block_hashes, None, [2**64 - 1] * 16, 16, None, "GPU", None)
    image = event(scheme, extra=[(("img", 0),), None, None])
    for odd in (inner, short, empty, sizeless, negative, huge, image):
        assert detect(odd) is None
