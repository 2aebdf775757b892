"""The official client against a simulated engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from headrace.simulator.http.fleet import Fleet

StartFleet = Callable[..., Awaitable[Fleet]]
MODEL = "Llama-3.1-8B"


@pytest.fixture
async def client(start_fleet: StartFleet) -> AsyncIterator[AsyncOpenAI]:
    fleet = await start_fleet()
    base = fleet.infos()[0].url + "/v1"
    async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0, timeout=20) as made:
        yield made


async def test_a_chat_is_answered_with_usage(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=12
    )
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_streamed_chat_says_what_the_whole_one_says(client: AsyncOpenAI) -> None:
    args: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 40,
        "extra_body": {"ignore_eos": True},
    }
    whole = await client.chat.completions.create(**args)
    stream = await client.chat.completions.create(
        **args, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert len(text) == 4 * 40
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 40


async def test_the_sync_client_streams_too(start_fleet: StartFleet) -> None:
    base = (await start_fleet()).infos()[0].url + "/v1"

    def ask() -> tuple[str, str | None]:
        with (
            OpenAI(base_url=base, api_key="none", max_retries=0, timeout=20) as sync,
            sync.completions.create(
                model=MODEL,
                prompt="once",
                max_tokens=9,
                stream=True,
                extra_body={"ignore_eos": True},
            ) as stream,
        ):
            choices = [chunk.choices[0] for chunk in stream]
            return "".join(c.text for c in choices), choices[-1].finish_reason

    text, reason = await asyncio.to_thread(ask)
    assert len(text) == 36
    assert reason == "length"


async def test_completions_take_text_texts_and_token_ids(client: AsyncOpenAI) -> None:
    text = await client.completions.create(model=MODEL, prompt="abcdefgh", max_tokens=5)
    ids = [int.from_bytes(b"abcd", "little"), int.from_bytes(b"efgh", "little")]
    by_ids = await client.completions.create(model=MODEL, prompt=ids, max_tokens=5)
    assert by_ids.choices[0].text == text.choices[0].text
    many = await client.completions.create(
        model=MODEL, prompt=["abcdefgh", "other"], n=2, max_tokens=5, echo=True
    )
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert many.choices[0].text == "abcdefgh" + text.choices[0].text
    assert many.choices[0].text != many.choices[1].text
    assert many.choices[2].text.startswith("other")
    assert many.usage is not None
    assert many.usage.prompt_tokens == 2 + 2


async def test_a_stop_string_ends_the_text_before_it(client: AsyncOpenAI) -> None:
    args: dict[str, Any] = {"model": MODEL, "prompt": "p", "max_tokens": 30}
    full = await client.completions.create(**args, extra_body={"ignore_eos": True})
    text = full.choices[0].text
    stop = text[10:15]
    cut = await client.completions.create(**args, stop=stop, extra_body={"ignore_eos": True})
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    stream = await client.completions.create(
        **args, stop=[stop], stream=True, extra_body={"ignore_eos": True}
    )
    parts = [chunk.choices[0].text async for chunk in stream]
    assert "".join(parts) == cut.choices[0].text


async def test_log_probabilities_match_the_text(client: AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "x"}],
        max_tokens=6,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(t.token for t in logprobs.content) == chat.choices[0].message.content
    for token in logprobs.content:
        assert [t.logprob for t in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0.0
    plain = await client.completions.create(model=MODEL, prompt="x", max_tokens=4, logprobs=2)
    told = plain.choices[0].logprobs
    assert told is not None
    assert "".join(told.tokens or []) == plain.choices[0].text


async def test_a_required_tool_is_called_with_arguments_its_schema_allows(
    client: AsyncOpenAI,
) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
    }
    args: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "weather?"}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": schema}}],
    }
    answer = await client.chat.completions.create(**args, tool_choice="required")
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert (calls[0].function.name, calls[0].function.arguments) == (
        "weather",
        '{"city":"text","unit":"C"}',
    )
    named: Any = {"type": "function", "function": {"name": "weather"}}
    stream = await client.chat.completions.create(**args, tool_choice=named, stream=True)
    arguments, reason = "", None
    async for chunk in stream:
        choice = chunk.choices[0]
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or []:
            assert call.function is not None
            arguments += call.function.arguments or ""
    assert (arguments, reason) == ('{"city":"text","unit":"C"}', "stop")


async def test_answering_a_tool_call_goes_on_with_the_conversation(client: AsyncOpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = await client.chat.completions.create(
        model=MODEL,
        max_tokens=4,
        messages=[
            {"role": "user", "content": "do it"},
            {"role": "assistant", "content": None, "tool_calls": [call]},  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": "c1", "content": "done"},
        ],
    )
    assert answer.choices[0].message.content


async def test_embeddings_are_unit_vectors_that_follow_from_the_text(client: AsyncOpenAI) -> None:
    first = await client.embeddings.create(model=MODEL, input=["one", "two"])
    again = await client.embeddings.create(model=MODEL, input="one", encoding_format="float")
    vectors = [item.embedding for item in first.data]
    assert all(math.isclose(sum(x * x for x in v), 1.0, rel_tol=1e-5) for v in vectors)
    assert vectors[0] == pytest.approx(again.data[0].embedding, abs=1e-7)
    assert vectors[0] != vectors[1]
    small = await client.embeddings.create(model=MODEL, input="one", dimensions=8)
    assert len(small.data[0].embedding) == 8


async def test_errors_have_the_types_the_client_expects(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await client.completions.create(model="nope", prompt="x")
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        await client.completions.create(model=MODEL, prompt="x", max_tokens=0)
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192"):
        await client.completions.create(model=MODEL, prompt="four" * 9000, max_tokens=1)


async def test_the_second_time_a_prompt_is_found_in_the_cache(client: AsyncOpenAI) -> None:
    prompt = "word" * 100
    for cached in (0, 96):  # 6 full blocks of 16; the rest is computed again
        answer = await client.completions.create(model=MODEL, prompt=prompt, max_tokens=2)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == cached


async def test_a_conversation_sent_back_hits_the_blocks_its_answer_filled(
    client: AsyncOpenAI,
) -> None:
    turns: list[Any] = [{"role": "user", "content": "tell me a story" * 10}]
    args: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "extra_body": {"ignore_eos": True}}
    first = await client.chat.completions.create(messages=turns, **args)
    assert first.usage is not None
    turns += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "and then?"},
    ]
    second = await client.chat.completions.create(messages=turns, **args)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    whole_blocks = (first.usage.total_tokens - 1) // 16 * 16  # the last token was not computed
    assert second.usage.prompt_tokens_details.cached_tokens == whole_blocks


async def test_a_salt_keeps_equal_prompts_apart(client: AsyncOpenAI) -> None:
    for salt, cached in (("a", 0), ("b", 0), ("a", 96)):
        answer = await client.completions.create(
            model=MODEL, prompt="salt" * 100, max_tokens=1, extra_body={"cache_salt": salt}
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == cached
