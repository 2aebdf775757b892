"""The official openai client against two real vLLM workers, through the gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.e2e.vllm.conftest import Figures
from tests.e2e.vllm.stack import CONTEXT_TOKENS, Stack

pytestmark = pytest.mark.vllm

MODEL = "small"
ASK: list[Any] = [{"role": "user", "content": "Where does a headrace bring the water?"}]
EXACT = {"ignore_eos": True}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "open_gate",
            "strict": True,
            "description": "Opens a gate of the headrace.",
            "parameters": {
                "type": "object",
                "properties": {"gate": {"type": "string", "enum": ["left", "right"]}},
                "required": ["gate"],
                "additionalProperties": False,
            },
        },
    }
]


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_a_chat_is_answered_whole(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=8, extra_body=EXACT
    )
    assert reply.id.startswith("chatcmpl-")
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 8
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8


def test_a_chat_is_streamed_token_by_token_with_usage_last(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=EXACT,
    )
    chunks = list(stream)
    assert len(chunks) > 8
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16
    assert chunks[-2].choices[0].finish_reason == "length"


def test_usage_that_was_not_asked_for_does_not_appear(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=4, stream=True, extra_body=EXACT
    )
    chunks = list(stream)
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


def test_a_completion_takes_text_and_token_ids(client: openai.OpenAI) -> None:
    text = client.completions.create(model=MODEL, prompt="the prefix cache", max_tokens=4)
    assert text.choices[0].text
    ids = client.completions.create(
        model=MODEL, prompt=[300, 301, 302], max_tokens=4, extra_body=EXACT
    )
    assert ids.usage is not None
    assert (ids.usage.prompt_tokens, ids.usage.completion_tokens) == (3, 4)


async def test_many_async_clients_are_served_at_once(stack: Stack, figures: Figures) -> None:
    async with openai.AsyncOpenAI(
        base_url=stack.url + "/v1", api_key="none", max_retries=0, timeout=60
    ) as client:

        async def whole(number: int) -> str | None:
            reply = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"Question {number}"}],
                max_tokens=6,
                extra_body=EXACT,
            )
            return reply.choices[0].finish_reason

        async def streamed(number: int) -> str | None:
            reason = None
            async for chunk in await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"Question {number}"}],
                max_tokens=6,
                stream=True,
                extra_body=EXACT,
            ):
                reason = chunk.choices[0].finish_reason or reason
            return reason

        asked = [(whole if number % 2 else streamed)(number) for number in range(16)]
        reasons = await asyncio.gather(*asked, return_exceptions=True)
    figures["streams.cut"] += sum(each is None for each in reasons)
    assert reasons == ["length"] * 16


def test_n_gives_two_choices(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=ASK, n=2, max_tokens=4, seed=1, temperature=1, extra_body=EXACT
    )
    assert [choice.index for choice in reply.choices] == [0, 1]


def test_logprobs_come_with_alternatives(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=4, logprobs=True, top_logprobs=3, extra_body=EXACT
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [len(entry.top_logprobs) for entry in logprobs.content] == [3] * 4


def test_a_stop_string_ends_the_reply(client: openai.OpenAI) -> None:
    def ask(stop: list[str] | None) -> Any:
        return client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=24, temperature=0, stop=stop, extra_body=EXACT
        ).choices[0]

    whole = ask(None).message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    cut = ask([stop])
    assert cut.finish_reason == "stop"
    assert cut.message.content == whole[: whole.index(stop)]


def test_a_tool_that_must_be_called_is_called_with_arguments_that_fit(
    client: openai.OpenAI,
) -> None:
    reply = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "open_gate"}},
        max_tokens=512,
        temperature=0,
    )
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert call.type == "function"
    assert call.function.name == "open_gate"
    assert json.loads(call.function.arguments)["gate"] in {"left", "right"}


def test_tools_that_may_be_called_reach_the_prompt(client: openai.OpenAI) -> None:
    def prompt_tokens(**tools: Any) -> int:
        reply = client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=2, extra_body=EXACT, **tools
        )
        return int(reply.usage.prompt_tokens)

    assert prompt_tokens(tools=TOOLS) > prompt_tokens() + 50


@pytest.mark.parametrize(
    ("changed", "error", "field"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"n": 0}, openai.BadRequestError, "n"),
        (
            {"messages": [{"role": "user", "content": "word " * 6_000}]},
            openai.BadRequestError,
            None,
        ),
        ({"max_tokens": CONTEXT_TOKENS * 10}, openai.BadRequestError, "max_tokens"),
        ({"extra_body": {"stream": "sometimes"}}, openai.BadRequestError, None),
    ],
)
def test_a_bad_request_is_the_clients_error_and_says_where(
    client: openai.OpenAI,
    changed: dict[str, Any],
    error: type[openai.APIStatusError],
    field: str | None,
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": ASK, "max_tokens": 4, **changed}
    with pytest.raises(error) as caught:
        client.chat.completions.create(**asked)
    body = caught.value.body
    assert isinstance(body, dict)
    assert set(body) >= {"message", "type", "param", "code"}
    assert body["message"]
    if field is not None:
        assert field in f"{body['param']} {body['message']}"
