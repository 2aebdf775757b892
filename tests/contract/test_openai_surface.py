"""What the gateway relies on in any engine's replies; the same tests for each kind of engine."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import aiohttp
import pytest

from tests.contract.conftest import CONTEXT_TOKENS, Engine

FRESH = count(1)


def prompt_text(words: int) -> str:
    """Return a prompt unlike any before it."""
    nonce = next(FRESH)
    return " ".join(f"router {nonce} cache {index}" for index in range(words))


async def post(
    http: aiohttp.ClientSession, engine: Engine, path: str, body: dict[str, Any]
) -> tuple[int, dict[str, Any]]:
    async with http.post(engine.url + path, json={"model": engine.model, **body}) as reply:
        return reply.status, await reply.json()


async def ok(
    http: aiohttp.ClientSession, engine: Engine, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    status, reply = await post(http, engine, path, body)
    assert status == 200, reply
    return reply


async def events(
    http: aiohttp.ClientSession, engine: Engine, path: str, body: dict[str, Any]
) -> list[str]:
    body = {"model": engine.model, "stream": True, **body}
    async with http.post(engine.url + path, json=body) as reply:
        assert reply.status == 200
        assert reply.content_type == "text/event-stream"
        text = await reply.text()
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


CHAT = {"messages": [{"role": "user", "content": "Where does the water go?"}], "max_tokens": 6}


async def test_health_answers_200(http: aiohttp.ClientSession, engine: Engine) -> None:
    async with http.get(engine.url + "/health") as reply:
        assert reply.status == 200


async def test_models_name_what_is_served_and_its_context(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    async with http.get(engine.url + "/v1/models") as reply:
        listed = await reply.json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["parent"]) == (engine.model, "model", None)
    assert model["max_model_len"] == CONTEXT_TOKENS


async def test_a_chat_reply_has_openais_shape_and_usage_that_adds_up(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    reply = await ok(http, engine, "/v1/chat/completions", {**CHAT, "ignore_eos": True})
    assert reply["id"].startswith("chatcmpl-")
    assert (reply["object"], reply["model"]) == ("chat.completion", engine.model)
    (choice,) = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    usage = reply["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_ends_with_its_reason_then_usage_then_done(
    http: aiohttp.ClientSession, engine: Engine, path: str
) -> None:
    asked = CHAT if "chat" in path else {"prompt": "Where does the water go?", "max_tokens": 6}
    body = {**asked, "ignore_eos": True, "stream_options": {"include_usage": True}}
    *chunks, done = await events(http, engine, path, body)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    *tokens, last = parsed
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in tokens]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) <= {None}
    assert len({chunk["id"] for chunk in parsed}) == 1
    if "chat" in path:
        assert tokens[0]["choices"][0]["delta"]["role"] == "assistant"


async def test_a_stream_without_usage_asked_for_has_none(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    *chunks, done = await events(http, engine, "/v1/chat/completions", CHAT)
    assert done == "[DONE]"
    assert all(json.loads(chunk).get("usage") is None for chunk in chunks)
    assert all(json.loads(chunk)["choices"] for chunk in chunks)


async def test_a_stream_and_a_whole_reply_say_the_same(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    body = {"prompt": prompt_text(5), "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    whole = await ok(http, engine, "/v1/completions", body)
    *chunks, _ = await events(http, engine, "/v1/completions", body)
    text = "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)
    assert text == whole["choices"][0]["text"]


async def test_a_repeated_prompt_is_found_in_the_cache_block_by_block(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    body = {"prompt": prompt_text(30), "max_tokens": 1}
    first = (await ok(http, engine, "/v1/completions", body))["usage"]
    again = (await ok(http, engine, "/v1/completions", body))["usage"]
    assert first["prompt_tokens"] > 4 * engine.block_tokens
    assert (first["prompt_tokens_details"] or {}).get("cached_tokens", 0) == 0
    cached = again["prompt_tokens_details"]["cached_tokens"]
    assert cached == (again["prompt_tokens"] - 1) // engine.block_tokens * engine.block_tokens


async def test_prompts_may_be_token_ids_and_several(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    body = {"prompt": [[300, 301, 302], [303, 304]], "max_tokens": 2, "ignore_eos": True}
    reply = await ok(http, engine, "/v1/completions", body)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert reply["usage"]["prompt_tokens"] == 5
    assert reply["usage"]["completion_tokens"] == 4


async def test_n_gives_that_many_choices(http: aiohttp.ClientSession, engine: Engine) -> None:
    reply = await ok(http, engine, "/v1/chat/completions", {**CHAT, "n": 2, "ignore_eos": True})
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    assert reply["usage"]["completion_tokens"] == 12


async def test_a_stop_string_ends_the_reply_before_it(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    body = {"prompt": prompt_text(3), "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    whole = (await ok(http, engine, "/v1/completions", body))["choices"][0]["text"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    cut = (await ok(http, engine, "/v1/completions", {**body, "stop": [stop]}))["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole[: whole.index(stop)]


async def test_logprobs_come_one_per_token(http: aiohttp.ClientSession, engine: Engine) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    reply = await ok(http, engine, "/v1/chat/completions", body)
    content = reply["choices"][0]["logprobs"]["content"]
    assert len(content) == 6
    for entry in content:
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 2


async def test_output_is_cut_where_the_context_ends(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    body = {"prompt": [300] * (CONTEXT_TOKENS - 8), "max_tokens": 100, "ignore_eos": True}
    reply = await ok(http, engine, "/v1/completions", body)
    assert reply["usage"]["completion_tokens"] == 8
    assert reply["choices"][0]["finish_reason"] == "length"


async def test_tokenize_counts_what_a_prompt_will_cost(
    http: aiohttp.ClientSession, engine: Engine
) -> None:
    prompt = prompt_text(4)
    counted = await ok(http, engine, "/tokenize", {"prompt": prompt})
    assert counted["count"] == len(counted["tokens"])
    assert counted["max_model_len"] == CONTEXT_TOKENS
    body = {"prompt": prompt, "max_tokens": 1}
    used = (await ok(http, engine, "/v1/completions", body))["usage"]
    assert used["prompt_tokens"] == counted["count"]


async def test_the_request_id_is_taken_over(http: aiohttp.ClientSession, engine: Engine) -> None:
    body = {"model": engine.model, **CHAT}
    headers = {"X-Request-Id": "contract-7"}
    async with http.post(engine.url + "/v1/chat/completions", json=body, headers=headers) as reply:
        assert (await reply.json())["id"] == "chatcmpl-contract-7"
        assert reply.headers["X-Request-Id"] == "contract-7"


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "nope"}, 404, "NotFoundError", "model"),
        ("/v1/chat/completions", {"messages": []}, 400, "BadRequestError", None),
        ("/v1/chat/completions", {"max_tokens": 3}, 400, "Bad Request", "body.messages"),
        (
            "/v1/chat/completions",
            {**CHAT, "temperature": -1},
            400,
            "BadRequestError",
            "temperature",
        ),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 0}, 400, "BadRequestError", "max_tokens"),
        ("/v1/chat/completions", {**CHAT, "n": 0}, 400, None, None),
        ("/v1/chat/completions", {**CHAT, "top_p": 2}, 400, "BadRequestError", "top_p"),
        (
            "/v1/completions",
            {"prompt": [5] * (CONTEXT_TOKENS + 1), "max_tokens": 1},
            400,
            "BadRequestError",
            "input_tokens",
        ),
        (
            "/v1/completions",
            {"prompt": "a", "max_tokens": CONTEXT_TOKENS + 1},
            400,
            "BadRequestError",
            "max_tokens",
        ),
    ],
)
async def test_a_bad_request_is_refused_in_openais_form(  # noqa: PLR0917
    http: aiohttp.ClientSession,
    engine: Engine,
    path: str,
    body: dict[str, Any],
    status: int,
    kind: str | None,
    param: str | None,
) -> None:
    got, reply = await post(http, engine, path, body)
    assert got == status, reply
    error = reply["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["code"] == status
    if kind is not None:
        assert (error["type"], error["param"]) == (kind, param)


@pytest.mark.parametrize(
    ("body", "content_type"), [(b"{", "application/json"), (b"{}", "text/plain")]
)
async def test_a_body_that_is_not_json_is_refused_in_openais_form(
    http: aiohttp.ClientSession, engine: Engine, body: bytes, content_type: str
) -> None:
    headers = {"content-type": content_type}
    url = engine.url + "/v1/chat/completions"
    async with http.post(url, data=body, headers=headers) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["code"] == 400
