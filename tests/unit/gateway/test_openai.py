from __future__ import annotations

import json

import pytest

from gateway.openai import Kind, Parsed, parse
from headrace.core.errors import InvalidRequest

USER = [{"role": "user", "content": "hi"}]


def chat(**fields: object) -> Parsed:
    return parse(Kind.CHAT, json.dumps({"model": "m", "messages": USER, **fields}).encode())


def complete(prompt: object, **fields: object) -> Parsed:
    body = json.dumps({"model": "m", "prompt": prompt, **fields}).encode()
    return parse(Kind.COMPLETION, body)


def refused(kind: Kind, **fields: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        parse(kind, json.dumps(fields).encode())
    return raised.value


def test_what_is_not_streamed_is_forwarded_as_it_came() -> None:
    body = b'{ "model" : "m", "messages":[{"role":"user","content":"\\u00e9"}], "x":1 }'
    assert parse(Kind.CHAT, body).forward is body


def test_a_stream_is_asked_for_usage_without_touching_the_rest() -> None:
    body = b' {"messages":[{"role":"user","content":"}"}] , "model":"m","stream":true } \n'
    parsed = parse(Kind.CHAT, body)
    assert parsed.forward.startswith(body.rstrip()[:-1])
    assert json.loads(parsed.forward)["stream_options"] == {"include_usage": True}
    assert not parsed.wants_usage


def test_a_client_that_asks_for_usage_gets_its_bytes_forwarded() -> None:
    parsed = chat(stream=True, stream_options={"include_usage": True})
    assert parsed.wants_usage
    assert json.loads(parsed.forward)["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"continuous_usage_stats": True}]
)
def test_other_stream_options_are_kept_beside_ours(options: dict[str, bool] | None) -> None:
    forwarded = json.loads(chat(stream=True, stream_options=options).forward)
    assert forwarded["stream_options"] == {**(options or {}), "include_usage": True}
    assert forwarded["messages"] == USER


def test_a_prompt_that_quotes_the_option_is_not_mistaken_for_it() -> None:
    text = 'put "stream_options": {"include_usage":false} in the body'
    messages = [{"role": "user", "content": text}]
    parsed = chat(messages=messages, stream=True, stream_options={"include_usage": False})
    forwarded = json.loads(parsed.forward)
    assert forwarded["messages"] == messages
    assert forwarded["stream_options"] == {"include_usage": True}


def test_of_two_members_of_one_name_the_last_is_overruled() -> None:
    body = (
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,'
        b'"stream_options":{"include_usage":false},"stream_options":{"include_usage":false}}'
    )
    assert json.loads(parse(Kind.CHAT, body).forward)["stream_options"]["include_usage"] is True


def test_embeddings_are_never_asked_for_usage() -> None:
    body = b'{"model":"m","input":"x","stream":true}'
    assert parse(Kind.EMBEDDING, body).forward is body


def test_the_cap_on_output_counts_all_choices() -> None:
    assert chat(max_tokens=10, n=3).max_output_tokens == 30
    assert chat(max_completion_tokens=5, max_tokens=10).max_output_tokens == 5
    assert chat().max_output_tokens is None


def test_priority_is_turned_round() -> None:
    assert chat(priority=-2).priority == 2
    assert chat(priority=None).priority == 0


def test_requests_that_belong_together_share_a_session() -> None:
    assert chat(user="u").session == "u"
    assert chat(user="u", prompt_cache_key="k").session == "k"
    assert chat().session is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": USER}, "model"),
        ({"model": "m"}, "messages"),
        ({"model": "", "messages": USER}, "model"),
        ({"model": 3, "messages": USER}, "model"),
        ({"model": "m" * 300, "messages": USER}, "model"),
        ({"model": "m", "messages": []}, "messages"),
        ({"model": "m", "messages": "hi"}, "messages"),
        ({"model": "m", "messages": [{"content": "x"}]}, "messages[0].role"),
        ({"model": "m", "messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"model": "m", "messages": USER, "max_tokens": 0}, "max_tokens"),
        ({"model": "m", "messages": USER, "max_tokens": 2**31}, "max_tokens"),
        ({"model": "m", "messages": USER, "max_tokens": "5"}, "max_tokens"),
        ({"model": "m", "messages": USER, "n": 0}, "n"),
        ({"model": "m", "messages": USER, "n": 10**9}, "n"),
        ({"model": "m", "messages": USER, "temperature": -0.1}, "temperature"),
        ({"model": "m", "messages": USER, "temperature": 2.1}, "temperature"),
        ({"model": "m", "messages": USER, "top_p": 1.5}, "top_p"),
        ({"model": "m", "messages": USER, "stream": "yes"}, "stream"),
        ({"model": "m", "messages": USER, "seed": 2**70}, "seed"),
        ({"model": "m", "messages": USER, "stream_options": 3}, "stream_options"),
    ],
)
def test_a_refusal_names_the_field_and_what_was_expected(
    fields: dict[str, object], field: str
) -> None:
    error = refused(Kind.CHAT, **fields)
    assert error.field == field
    assert error.message.startswith(f"{field}: ")
    assert "expected" in error.message or "required" in error.message


@pytest.mark.parametrize("prompt", [[], [1, "a"], [[1], "a"], [-1], [2**32], [True], [1.5], {}])
def test_prompts_of_no_known_form_are_refused(prompt: object) -> None:
    assert refused(Kind.COMPLETION, model="m", prompt=prompt).field is not None


def test_a_prompt_may_be_text_texts_ids_or_lists_of_ids() -> None:
    assert complete("x" * 512).prompt.exact_tokens is None
    assert complete(["x" * 512, "y" * 512]).prompt.length_bytes == 1024
    assert complete([1, 2, 3]).prompt.exact_tokens == 3
    assert complete([[1, 2, 3], [4, 5]]).prompt.exact_tokens == 5
    assert complete("").prompt.blocks == ()


def test_tokenize_needs_a_prompt_or_messages() -> None:
    assert refused(Kind.TOKENIZE, model="m").field == "prompt"
    assert parse(Kind.TOKENIZE, b'{"model":"m","prompt":"x"}').prompt.length_bytes == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', "UTF-8"),
        (b'{"model":"m","messages":[{"role":"user"}],"x":"\xff"}', "UTF-8"),
        (b'{"model":"m","messages":[{"role":"user"}],"x":NaN}', "not valid JSON"),
        (b'{"model":"m","x":' + b"[" * 100_000, "nested too deeply"),
        (b"[]", "expected `object`"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse(Kind.CHAT, body)
