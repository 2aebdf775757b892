from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.conversation import cache_salt, read_conversation, read_prompts


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    "fields",
    [
        {"truncate_prompt_tokens": 8},
        {"chat_template": "{{ messages }}"},
        {"chat_template_kwargs": {"tools": []}},
        {"chat_template_kwargs": ["enable_thinking"]},
        {"kv_transfer_params": {"prompt_token_ids": [1, 2]}},
        {"continue_final_message": True},
        {"tools": []},
        {"tools": [{"type": "custom", "name": "f"}]},
        {"tools": [{"type": "function", "function": {"name": "f", "defer_loading": True}}]},
        {"messages": [{"role": "developer", "content": "d"}]},
        {"messages": [{"role": "system", "content": "x-anthropic-billing-header: 1\nbe brief"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "uuid": "1"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "refusal", "text": "a"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "function", "id": "1"}]}]},
        {"messages": []},
    ],
)
def test_nothing_is_said_of_a_conversation_that_its_engine_may_read_otherwise(
    fields: dict[str, Any],
) -> None:
    assert read_conversation(body(**{"messages": HELLO, **fields})) is None
    assert read_conversation(body(messages=HELLO)) is not None


def test_what_no_template_is_given_is_skipped() -> None:
    plain = read_conversation(body(messages=HELLO))
    noisy = [{**HELLO[0], "id": "7", "refusal": None, "annotations": [1], "function_call": {}}]
    assert read_conversation(body(messages=noisy, temperature=0.5, logit_bias={})) == plain


def test_a_requests_own_fields_win_over_template_arguments() -> None:
    given = {
        "add_generation_prompt": False,
        "reasoning_effort": "low",
        "x": 1,
        "y": "auto",
        "z": None,
    }
    read = read_conversation(
        body(messages=HELLO, chat_template_kwargs=given, reasoning_effort="none")
    )
    assert read is not None
    assert read.arguments == {
        "add_generation_prompt": True,
        "continue_final_message": False,
        "reasoning_effort": "none",
        "enable_thinking": False,
        "x": 1,
    }


@pytest.mark.parametrize(
    ("prompt", "texts", "ids"),
    [
        ("a", ("a",), ()),
        (["a", "b"], ("a", "b"), ()),
        ([1, 2], (), ([1, 2],)),
        ([[1, 2], [3]], (), ([1, 2], [3])),
    ],
)
def test_a_prompt_is_read_in_its_four_forms(
    prompt: Any, texts: tuple[str, ...], ids: tuple[list[int], ...]
) -> None:
    read = read_prompts(body(prompt=prompt))
    assert read is not None
    assert (read.texts, read.ids, read.special_tokens) == (texts, ids, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": []},
        {"prompt": ["a", 1]},
        {"prompt": [1, [2]]},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "truncate_prompt_tokens": -1},
        {"prompt": "a", "prompt_embeds": "AAAA"},
        {"prompt": {"text": "a"}},
        {},
    ],
)
def test_nothing_is_said_of_a_prompt_that_is_not_all_there(fields: dict[str, Any]) -> None:
    assert read_prompts(body(**fields)) is None


def test_the_salt_is_found_in_any_body() -> None:
    assert cache_salt(body(prompt="a", cache_salt="tenant")) == "tenant"
    assert cache_salt(body(messages=HELLO)) is None
