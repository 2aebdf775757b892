from __future__ import annotations

import json

import pytest

from gateway.openai import Kind, parse
from gateway.prompt import (
    BLOCK_BYTES,
    Prompt,
    TokenRates,
    chat_prompt,
    ids_prompt,
    text_prompt,
)
from headrace.core.ids import ModelName

M = ModelName("m")


def chat(messages: list[dict[str, object]], **fields: object) -> Prompt:
    body = {"model": "m", "messages": messages, **fields}
    return parse(Kind.CHAT, json.dumps(body).encode()).prompt


def say(role: str, text: str) -> dict[str, object]:
    return {"role": role, "content": text}


LONG = "The quick brown fox jumps over the lazy dog. " * 40


def test_a_conversation_shares_the_blocks_of_the_one_it_grew_from() -> None:
    first = [say("system", LONG), say("user", LONG)]
    longer = [*first, say("assistant", LONG), say("user", "and?")]
    short, grown = chat(first).blocks, chat(longer).blocks
    assert len(short) > 10
    assert grown[: len(short)] == short
    assert len(grown) > len(short)


def test_a_change_in_one_block_changes_all_after_it() -> None:
    same = "x" * (4 * BLOCK_BYTES)
    changed = same[: 2 * BLOCK_BYTES] + "y" + same[2 * BLOCK_BYTES + 1 :]
    a, b = (text_prompt(text, "m", None).blocks for text in (same, changed))
    assert a[:2] == b[:2]
    assert a[2] != b[2]
    assert a[3] != b[3]


def test_equal_blocks_at_different_places_have_different_hashes() -> None:
    blocks = text_prompt("x" * (4 * BLOCK_BYTES), "m", None).blocks
    assert len(set(blocks)) == 4


def test_models_and_salts_never_share() -> None:
    text = "x" * BLOCK_BYTES
    hashes = {
        text_prompt(text, model, salt).blocks[0]
        for model, salt in (("m", None), ("n", None), ("m", "s"), ("m", "t"), ("m", ""))
    }
    assert len(hashes) == 5


def test_only_full_blocks_count() -> None:
    assert text_prompt("x" * (BLOCK_BYTES - 1), "m", None).blocks == ()
    assert len(text_prompt("x" * BLOCK_BYTES, "m", None).blocks) == 1


def test_token_ids_and_the_text_of_the_simulated_tokeniser_share_blocks() -> None:
    text = "abcd" * BLOCK_BYTES
    ids = [int.from_bytes(b"abcd", "little")] * BLOCK_BYTES
    assert text_prompt(text, "m", None).blocks == ids_prompt(ids, "m", None).blocks


def test_parts_of_a_content_count_as_their_text() -> None:
    parts = [{"type": "text", "text": LONG}, {"type": "image_url", "image_url": {"url": "u"}}]
    one = chat([{"role": "user", "content": parts}])
    other = chat([{"role": "user", "content": [parts[0]]}])
    assert one.blocks[:6] == other.blocks[:6]
    assert one.length_bytes > other.length_bytes


def test_tools_and_tool_calls_are_part_of_the_prompt() -> None:
    message = [say("user", LONG)]
    assert chat(message).blocks[0] != chat(message, tools=[{"type": "function"}]).blocks[0]
    calling: dict[str, object] = {"role": "assistant", "tool_calls": [{"id": "1"}]}
    silent: dict[str, object] = {"role": "assistant"}
    assert chat([calling, *message]).blocks[0] != chat([silent, *message]).blocks[0]


def test_words_are_kept_apart() -> None:
    pad = "x" * BLOCK_BYTES
    a = chat_prompt("", ["user", "ab", "c" + pad], "m", None)
    b = chat_prompt("", ["user", "a", "bc" + pad], "m", None)
    assert a.blocks[0] != b.blocks[0]


def test_lone_surrogates_hash_too() -> None:
    assert text_prompt("\ud800" * BLOCK_BYTES, "m", None).blocks


def test_hashes_do_not_depend_on_the_process() -> None:
    """Replicas compare them; the value is pinned."""
    assert text_prompt("x" * BLOCK_BYTES, "m", None).blocks == (9543124724288941474,)


class TestTokenRates:
    PROMPT = Prompt(length_bytes=1_000, exact_tokens=None, blocks=())

    def test_four_bytes_are_a_token_until_engines_tell(self) -> None:
        assert TokenRates().tokens_per_byte(M) == 0.25

    def test_what_engines_report_is_learned(self) -> None:
        rates = TokenRates()
        for _ in range(100):
            rates.learn(M, self.PROMPT, 400)
        assert rates.tokens_per_byte(M) == pytest.approx(0.4, abs=1e-3)
        assert rates.tokens_per_byte(ModelName("other")) == 0.25

    @pytest.mark.parametrize(
        ("prompt", "tokens"),
        [
            (Prompt(1_000, 250, ()), 400),
            (Prompt(10, None, ()), 9),
            (PROMPT, 0),
            (PROMPT, 10**9),
        ],
    )
    def test_what_teaches_nothing_is_ignored(self, prompt: Prompt, tokens: int) -> None:
        rates = TokenRates()
        rates.learn(M, prompt, tokens)
        assert rates.tokens_per_byte(M) == 0.25

    def test_models_remembered_are_bounded(self) -> None:
        rates = TokenRates(limit=2)
        for name in ("a", "b", "a", "c"):
            rates.learn(ModelName(name), self.PROMPT, 400)
        learned = [n for n in "abc" if rates.tokens_per_byte(ModelName(n)) != 0.25]
        assert learned == ["a", "c"]
