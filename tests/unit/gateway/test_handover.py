from __future__ import annotations

import json

import pytest

from gateway.handover import can_be_shared, first_body, handed_over, second_body
from gateway.openai import Kind
from headrace.core.errors import EngineRefused

USER = [{"role": "user", "content": "hi"}]


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": USER, **fields}).encode()


def completion(prompt: object, **fields: object) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt, **fields}).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stream": True, "max_tokens": 9, "temperature": 0, "seed": 1},
        {"n": 1},
        {"n": None, "prompt_logprobs": None, "kv_transfer_params": None},
        {"tools": [{"type": "function"}], "tool_choice": "auto"},
        {"tool_choice": "none", "logprobs": True, "top_logprobs": 2},
        {"echo": False, "use_beam_search": False},
    ],
)
def test_an_ordinary_request_can_be_shared(fields: dict[str, object]) -> None:
    assert can_be_shared(Kind.CHAT, chat(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"best_of": 3},
        {"echo": True},
        {"prompt_logprobs": 0},
        {"use_beam_search": True},
        {"kv_transfer_params": {}},
        {"truncate_prompt_tokens": 5},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    ],
)
def test_a_request_that_asks_for_more_than_one_reply_to_one_prompt_cannot(
    fields: dict[str, object],
) -> None:
    assert not can_be_shared(Kind.CHAT, chat(**fields))
    assert not can_be_shared(Kind.COMPLETION, completion("a", **fields))


@pytest.mark.parametrize("prompt", ["text", "[", '["', [1, 2], []])
def test_one_prompt_can_be_shared_as_text_or_tokens(prompt: object) -> None:
    assert can_be_shared(Kind.COMPLETION, completion(prompt))


@pytest.mark.parametrize("prompt", [["a", "b"], ["a"], [[1], [2]]])
def test_lists_of_prompts_cannot(prompt: object) -> None:
    assert not can_be_shared(Kind.COMPLETION, completion(prompt))
    spaced = b'{"model":"m","prompt": [ \n' + json.dumps(prompt).encode()[1:] + b"}"
    assert not can_be_shared(Kind.COMPLETION, spaced)


@pytest.mark.parametrize("kind", [Kind.EMBEDDING, Kind.TOKENIZE])
def test_what_has_no_reply_of_tokens_cannot(kind: Kind) -> None:
    assert not can_be_shared(kind, b'{"model":"m","input":"a","prompt":"a"}')


def test_the_first_engine_is_asked_for_one_token_and_nothing_that_needs_more() -> None:
    asked = chat(
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=99,
        max_completion_tokens=88,
        min_tokens=50,
        logprobs=True,
        top_logprobs=3,
        temperature=0.5,
        cache_salt="s",
        vendor={"x": [1]},
    )
    sent = json.loads(first_body(asked))
    params = sent.pop("kv_transfer_params")
    assert (params["do_remote_decode"], params["do_remote_prefill"]) == (True, False)
    assert sent == {
        "model": "m",
        "messages": USER,
        "stream": False,
        "max_tokens": 1,
        "max_completion_tokens": 1,
        "temperature": 0.5,
        "cache_salt": "s",
        "vendor": {"x": [1]},
    }


def test_a_name_that_the_body_does_not_have_is_not_sent() -> None:
    assert "max_completion_tokens" not in json.loads(first_body(chat()))


def test_what_was_handed_over_goes_on_as_it_came() -> None:
    reply = b'{"id":"c","kv_transfer_params": {"remote_block_ids" : [1,2], "x":1e400} ,"usage":{}}'
    assert handed_over(reply) == b'{"remote_block_ids" : [1,2], "x":1e400}'


@pytest.mark.parametrize(
    "reply",
    [b"", b"{}", b"[]", b"\xff", b'{"kv_transfer_params":null}', b'{"kv_transfer_params":"a"}'],
)
def test_a_reply_that_hands_nothing_over_is_a_failure(reply: bytes) -> None:
    with pytest.raises(EngineRefused):
        handed_over(reply)


def test_the_second_engine_gets_the_body_byte_for_byte_and_the_params() -> None:
    body = b' { "model" : "m", "messages":[{"content":"}"}] } \n'
    sent = second_body(body, b'{"a":1}')
    assert sent.startswith(body.rstrip()[:-1])
    assert json.loads(sent)["kv_transfer_params"] == {"a": 1}


def test_a_null_of_that_name_is_overruled() -> None:
    assert json.loads(second_body(chat(kv_transfer_params=None), b'{"a":1}')) == {
        "model": "m",
        "messages": USER,
        "kv_transfer_params": {"a": 1},
    }
