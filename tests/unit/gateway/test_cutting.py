from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer

from gateway.cutting import PIECE_CHARS, WORDS_CHARS, Cutter
from tests.support.made_tokenizers import END, KINDS, START, TEMPLATE, make_tokenizer


def encode_with(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [each.ids for each in tokenizer.encode_batch(texts, add_special_tokens=False)]


def cutter(tokenizer: Tokenizer) -> Cutter:
    return Cutter(
        tokenizer,
        json.loads(tokenizer.to_str()),
        [TEMPLATE],
        lambda texts: encode_with(tokenizer, list(texts)),
    )


def turns(count: int, words: str = "one of the two halves, ") -> str:
    return "".join(f"{START}user\n{words * 20}{END}\n" for _ in range(count))


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_tokens_are_the_wholes(kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    text = turns(9) + "the end of it " * 400
    pieces = cutter(tokenizer).pieces(text)
    assert "".join(pieces) == text
    whole, *parts = encode_with(tokenizer, [text, *pieces])
    assert [token for part in parts for token in part] == whole


def test_texts_are_cut_behind_special_tokens_and_long_ones_between_words() -> None:
    pieces = cutter(make_tokenizer("llama 3")).pieces(turns(5) + "word " * 2_000)
    assert [piece.endswith((START, END)) for piece in pieces[:2]] == [True] * 2
    assert all(PIECE_CHARS <= len(piece) <= WORDS_CHARS + 8 for piece in pieces[:-1])
    assert len(pieces) >= 8
    short = "word " * 40
    assert cutter(make_tokenizer("bytes")).pieces(short) == [short]
    assert cutter(make_tokenizer("bytes")).pieces("") == [""]


def test_a_tokenizer_that_knows_where_a_text_begins_is_given_it_whole() -> None:
    text = turns(9)
    assert cutter(make_tokenizer("first")).pieces(text) == [text]


def test_words_are_not_cut_where_merges_may_join_them() -> None:
    text = "word " * 2_000
    assert cutter(make_tokenizer("llama 2")).pieces(text) == [text]


@pytest.mark.parametrize(
    "token",
    [
        AddedToken(f"{END}\n", normalized=False),  # holds it
        AddedToken("<tool<", normalized=False),  # ends as it begins
        AddedToken("tool", normalized=False, single_word=True),  # looks at its neighbours
    ],
    ids=lambda token: str(token.content),
)
def test_a_special_token_that_another_may_hide_is_no_place_to_cut(token: AddedToken) -> None:
    tokenizer = make_tokenizer("llama 2", token)
    pieces = cutter(tokenizer).pieces(turns(9))
    assert not any(piece.endswith(END) for piece in pieces[:-1])


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("two halves", normalized=False),
        AddedToken("the", normalized=False, rstrip=True),
        AddedToken("halves", normalized=True, lstrip=True),
    ],
    ids=lambda token: str(token.content),
)
def test_words_are_not_cut_where_an_added_token_may_take_their_space(token: AddedToken) -> None:
    text = "one of the two halves of it " * 300
    pieces = cutter(make_tokenizer("bytes", token)).pieces(text)
    assert all(piece.endswith("two halves") for piece in pieces[:-1])  # only behind the token
    assert not all(
        piece.endswith("two halves") for piece in cutter(make_tokenizer("bytes")).pieces(text)[:-1]
    )


def test_a_text_that_grew_keeps_its_pieces() -> None:
    cut = cutter(make_tokenizer("llama 3"))
    text = turns(6) + "and so on and on " * 500 + turns(6)
    whole = cut.pieces(text)
    for length in range(0, len(text), 97):
        part = cut.pieces(text[:length])
        assert part[:-1] == whole[: len(part) - 1]
