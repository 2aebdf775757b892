from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.simulator.http.text import VOCAB, Generated, chat_prompt, decode, encode, pad, utf8


def test_a_token_is_four_bytes_little_endian() -> None:
    assert encode(b"abcdef").tolist() == [0x64636261, 0x00006665]
    assert encode(b"").tolist() == []


def test_tokens_are_below_the_vocabulary_whatever_the_text() -> None:
    assert encode(b"\xff" * 40).max() < VOCAB


@given(st.text(st.characters(max_codepoint=127, exclude_characters="\0"), max_size=50))
def test_ascii_comes_back(text: str) -> None:
    assert decode(encode(text.encode())) == text


@given(st.text(max_size=50))
def test_any_text_has_tokens(text: str) -> None:
    data = utf8(text)
    assert len(encode(data)) == -(-len(data) // 4)
    decode(encode(data))


def test_padding_fills_up_to_whole_tokens() -> None:
    assert [len(pad(b"x" * n)) for n in range(6)] == [0, 4, 4, 4, 4, 8]


def test_a_conversation_that_goes_on_begins_with_the_tokens_of_the_shorter_one() -> None:
    turns = [("user", b"hello"), ("assistant", b" abc def"), ("user", b"more")]
    first = encode(chat_prompt(turns[:1]))
    answer = encode(turns[1][1])
    whole = encode(chat_prompt(turns))
    begun = np.concatenate((first, answer))
    assert (whole[: len(begun)] == begun).all()


def test_tools_and_an_unopened_turn_change_the_prompt() -> None:
    turns = [("user", b"hi")]
    assert chat_prompt(turns, tools=b"f").startswith(b"<|tools|>\0\0\0f\0\0\0<|user|>")
    assert not chat_prompt(turns, generate=False).endswith(b"<|assistant|>\0\0\0")


def test_generated_text_follows_from_prompt_seed_and_choice() -> None:
    prompt = encode(b"some prompt")
    first = Generated.after(prompt, 1, 0)
    assert first == Generated.after(prompt.copy(), 1, 0)
    others = [
        Generated.after(prompt, 2, 0),
        Generated.after(prompt, 1, 1),
        Generated.after(prompt[:1], 1, 0),
    ]
    assert all(other.text(8) != first.text(8) for other in others)
    assert 0.0 <= first.chance < 1.0


def test_generated_text_is_words_of_four_ascii_bytes_that_json_need_not_escape() -> None:
    text = Generated(65_530, 0.5).text(70_000)
    assert len(text) == 280_000
    assert text.startswith(Generated(65_530, 0.5).text(20))
    assert set(text[::4]) == {ord(" ")}
    assert text.replace(b" ", b"").isalpha()
