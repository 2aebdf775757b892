from __future__ import annotations

import random

import numpy as np
import pytest

from headrace.simulator.http.generation import (
    Ending,
    Generation,
    Prompt,
    find_stop,
    fixed_ending,
    natural_length,
)
from headrace.simulator.http.text import encode
from kvcache.hashing import BlockHasher, Scope


@pytest.mark.parametrize("prompt_tokens", [1, 3, 4, 5, 8, 10])
@pytest.mark.parametrize("scope", [Scope(), Scope("ad", "/p", "salt")])
def test_keys_of_output_blocks_go_on_with_the_chain_of_the_prompt(
    prompt_tokens: int, scope: Scope
) -> None:
    rng = random.Random(prompt_tokens)
    hasher = BlockHasher(4, "sha256_cbor")
    prompt = encode(rng.randbytes(4 * prompt_tokens))
    text = b" abc def ghi jkl mno pqr stu vwx yz."
    generation = Generation(Prompt.of(prompt, scope, hasher), text, Ending(9, 36, "length"), hasher)
    whole = np.concatenate((prompt, encode(text)))
    wanted = hasher.hashes(whole, scope)
    first = prompt_tokens // 4
    assert [generation.output_key(i) for i in range(first, len(wanted))] == wanted[first:]
    assert generation.output_key(first) == wanted[first]
    assert generation.token_ids(0, len(whole)).tolist() == whole.tolist()
    assert (
        generation.token_ids(prompt_tokens, prompt_tokens + 2).tolist() == encode(text[:8]).tolist()
    )


def test_sequences_that_are_not_shared_have_no_keys() -> None:
    hasher = BlockHasher(4)
    prompt = Prompt.of(encode(b"word" * 8), Scope(), hasher)
    generation = Generation(prompt, b" abc", Ending(1, 4, "stop"), hasher)
    generation.describe("1", share=False)
    assert generation.request.block_keys == ()
    assert generation.request.output_keys is None
    generation.describe("2", priority=3, transferred_tokens=5)
    assert len(generation.request.block_keys) == 2
    assert (generation.request.priority, generation.request.kv_transfer_tokens) == (3, 5)


def test_natural_lengths_are_exponential_with_the_mean() -> None:
    draws = [natural_length((i + 0.5) / 10_000, 100.0) for i in range(10_000)]
    assert min(draws) == 1
    assert sum(draws) / len(draws) == pytest.approx(100.0, rel=0.02)
    assert sorted(draws)[5_000] == pytest.approx(69, abs=1)


TEXT = b" abc def ghi abc"


@pytest.mark.parametrize(
    ("stops", "least", "tokens", "shown", "reason"),
    [
        (["def"], 0, 2, 5, "def"),
        (["c d"], 0, 2, 3, "c d"),
        ([" abc"], 0, 1, 0, " abc"),
        ([" abc"], 2, 4, 12, " abc"),
        (["ghi", "bc"], 0, 1, 2, "bc"),
    ],
)
def test_the_earliest_stop_string_ends_the_text_before_it(
    stops: list[str], least: int, tokens: int, shown: int, reason: str
) -> None:
    assert find_stop(TEXT, stops, least) == Ending(tokens, shown, "stop", reason)


def test_a_stop_string_that_never_comes_ends_nothing() -> None:
    assert find_stop(TEXT, ["zzz", "é"], 0) is None
    assert find_stop(TEXT, ["def"], 3) is None


def test_fixed_text_ends_itself_unless_the_limit_does() -> None:
    assert fixed_ending(b"123456789", 3) == Ending(3, 9, "stop")
    assert fixed_ending(b"123456789", 2) == Ending(2, 8, "length")
    assert fixed_ending(b"", 2).output_tokens == 1
