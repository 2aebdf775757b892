"""Laws of tokenising by parts: for any text, of any tokenizer, it gives what the whole gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from gateway.cutting import Cutter
from gateway.openai import Kind
from gateway.prefixes import Pieces
from gateway.readers import TokenizerReader
from gateway.rendering import ChatTemplate
from gateway.tokenizer import ModelTokenizer
from tests.support.made_tokenizers import KINDS, SPECIAL, TEMPLATE, make_tokenizer

ADDED = {
    "none": (),
    "normal": (AddedToken("the", normalized=True), AddedToken(" of", normalized=True)),
    "greedy": (AddedToken("<tool>", normalized=False, lstrip=True, rstrip=True),),
    "shy": (AddedToken("water", normalized=False, single_word=True),),
    "nested": (AddedToken("<|end|>\n", normalized=False), AddedToken("<|st", normalized=False)),
}

ATOMS = st.sampled_from(
    [
        *SPECIAL,
        *("<tool>", "<|", "|>", "<|st", "art|>", "the", "water", "of", "halves", "isn't", "it's"),
        *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "'", "'s", ".", ",", "1", "123", "45,6", "_", "<"),
        *("\u00e9", "e\u0301", "\u4e2d\u6587", "\U0001f600", "\u00a0", "\u2581", "A", "Bc", "xYz"),
        *("a b", "x y z", " one of the two", "def f(x):\n    return x"),
    ]
)
TEXTS = st.lists(ATOMS, max_size=60).map("".join)


@cache
def made(kind: str, added: str) -> tuple[Tokenizer, Cutter]:
    tokenizer = make_tokenizer(kind, *ADDED[added])

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]

    spec = json.loads(tokenizer.to_str())
    return tokenizer, Cutter(tokenizer, spec, [TEMPLATE], encode, piece_chars=4, words_chars=9)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(sorted(ADDED)), TEXTS)
def test_the_parts_of_a_text_have_the_tokens_of_the_whole(kind: str, added: str, text: str) -> None:
    tokenizer, cutter = made(kind, added)
    pieces = cutter.pieces(text)
    assert "".join(pieces) == text
    encoded = tokenizer.encode_batch([text, *pieces], add_special_tokens=False)
    assert encoded[0].ids == [token for part in encoded[1:] for token in part.ids]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), TEXTS, TEXTS, TEXTS)
def test_texts_that_begin_alike_are_cut_alike(kind: str, start: str, one: str, two: str) -> None:
    _, cutter = made(kind, "none")
    first, second = cutter.pieces(start + one), cutter.pieces(start + two)
    shared = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        shared += len(a)
    # at most one piece, and what may decide where it ends, lies between the last cut and the fork
    longest = max(map(len, (*first, *second)))
    assert shared >= len(start) - longest - 4


MESSAGES = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "system", "tool"]), TEXTS),
    min_size=1,
    max_size=6,
)


@cache
def model(kind: str) -> tuple[Tokenizer, ModelTokenizer]:
    tokenizer = make_tokenizer(kind)
    template = ChatTemplate(TEMPLATE, {}, str)
    return tokenizer, ModelTokenizer(
        tokenizer, json.loads(tokenizer.to_str()), {"default": template}
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), MESSAGES, st.integers(1, 40))
def test_a_conversation_that_grows_has_at_every_turn_the_tokens_of_a_fresh_start(
    kind: str, messages: list[tuple[str, str]], repeat: int
) -> None:
    tokenizer, by_parts = model(kind)
    growing = TokenizerReader(by_parts, Pieces(20_000), b"")
    for turn in range(1, len(messages) + 1):
        said = [{"role": role, "content": text * repeat} for role, text in messages[:turn]]
        body = json.dumps({"messages": said}).encode()
        shown = "".join(f"<|start|>{each['role']}\n{each['content']}<|end|>\n" for each in said)
        want = tokenizer.encode(f"{shown}<|start|>assistant\n", add_special_tokens=False)
        found = growing.prompts(Kind.CHAT, body)
        assert found is not None
        assert found[0].tolist() == want.ids
