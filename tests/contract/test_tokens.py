"""Prompts tokenised by us are those the engine computes: its counts, its tokens, its block hashes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zmq
import zmq.asyncio
from prometheus_client import CollectorRegistry

from gateway.config import TokenSettings
from gateway.openai import Kind, parse
from gateway.tokens import ModelSource, PromptTokens, Tokenised
from headrace.core.endpoint import BlockScheme
from headrace.core.ids import ModelName
from headrace.service.telemetry import Telemetry
from kvcache.events import BlockStored, split_message
from tests.contract.conftest import Engine
from tests.contract.test_engine_side import subscribed

HEARD_S = 20.0

PATHS = {Kind.CHAT: "/v1/chat/completions", Kind.COMPLETION: "/v1/completions"}

TOOL = {
    "type": "function",
    "function": {
        "name": "open_gate",
        "parameters": {
            "type": "object",
            "properties": {"gate": {"type": "number", "minimum": 1.0}},
        },
        "description": "Open a gate \u2013 <by number>.",
    },
}
CALL = {
    "id": "call-1",
    "type": "function",
    "function": {"name": "open_gate", "arguments": '{"gate": 7}'},
}
RULES = " ".join(f"Rule {number}: open  gate {number}, then wait.\n" for number in range(20))
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": RULES},
    {
        "role": "user",
        "content": "Which gate is first? \u4e2d\u6587 caf\u00e9 <|end|> it's 12345\r\n\t",
    },
    {"role": "assistant", "content": " Gate 7, as the rules say. "},
    {
        "role": "user",
        "content": [{"type": "text", "text": "And then?"}, {"type": "text", "text": RULES}],
    },
]

BODIES: dict[str, tuple[Kind, dict[str, Any]]] = {
    "one turn": (Kind.CHAT, {"messages": TURNS[3:]}),
    "many turns": (Kind.CHAT, {"messages": TURNS}),
    "no opening": (Kind.CHAT, {"messages": TURNS, "add_generation_prompt": False}),
    "an answer to go on with": (
        Kind.CHAT,
        {"messages": TURNS[:3], "add_generation_prompt": False, "continue_final_message": True},
    ),
    "tools": (Kind.CHAT, {"messages": TURNS, "tools": [TOOL], "tool_choice": "none"}),
    "calls": (
        Kind.CHAT,
        {
            "messages": [
                *TURNS,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call-1", "content": "open"},
            ]
        },
    ),
    "a text": (Kind.COMPLETION, {"prompt": RULES}),
    "texts": (Kind.COMPLETION, {"prompt": [RULES, "another"]}),
    "a text without special tokens": (
        Kind.COMPLETION,
        {"prompt": f" {RULES}", "add_special_tokens": False},
    ),
    "token ids": (Kind.COMPLETION, {"prompt": [300 + at % 700 for at in range(150)]}),
}


@pytest.fixture
async def source(http: aiohttp.ClientSession, engine: Engine) -> ModelSource:
    async with http.get(engine.url + "/v1/models") as reply:
        (card,) = [each for each in (await reply.json())["data"] if each["id"] == engine.model]
    folder = Path(card["root"])
    return ModelSource(
        ModelName(engine.model), card["root"], simulated=not await asyncio.to_thread(folder.is_dir)
    )


@pytest.fixture
async def tokens() -> AsyncIterator[PromptTokens]:
    settings = TokenSettings(limit_ms=60_000)
    made = PromptTokens(settings, Telemetry(CollectorRegistry()))
    yield made
    made.close()


async def tokenised(
    tokens: PromptTokens, source: ModelSource, kind: Kind, body: dict[str, Any], scheme: BlockScheme
) -> Tokenised:
    found = await tokens.of(parse(kind, json.dumps(body).encode()), source, [scheme])
    assert found is not None
    return found


async def stored(
    socket: zmq.asyncio.Socket, salt: str, blocks: int
) -> tuple[list[int], list[int | bytes]]:
    """Return the tokens and hashes of the chain that begins with ``salt``, as events tell them."""
    ids: list[int] = []
    hashes: list[int | bytes] = []
    async with asyncio.timeout(HEARD_S):
        while len(hashes) < blocks:
            for event in split_message(await socket.recv_multipart())[2].events:
                if not isinstance(event, BlockStored):
                    continue
                begins = event.parent_block_hash is None and salt in str(event.extra_keys)
                if begins or event.parent_block_hash in hashes:
                    ids += event.token_ids
                    hashes += event.block_hashes
    return ids, hashes


async def test_counts_tokens_and_hashes_are_the_engines_own(
    engine: Engine, http: aiohttp.ClientSession, source: ModelSource, tokens: PromptTokens
) -> None:
    scheme = BlockScheme(engine.block_tokens, "sha256_cbor")
    context = zmq.asyncio.Context()
    with context, context.socket(zmq.SUB) as socket:
        socket.connect(engine.kv_events.events)
        socket.subscribe(engine.kv_events.topic)
        await subscribed(socket, http, engine)
        for name, (kind, fields) in BODIES.items():
            salt = f"salt of {name}"  # blocks found in the cache are not told of again
            body = {"model": engine.model, "max_tokens": 1, **fields, "cache_salt": salt}
            found = await tokenised(tokens, source, kind, body, scheme)
            async with http.post(engine.url + PATHS[kind], json=body) as reply:
                answer = await reply.json()
                assert reply.status == 200, (name, answer)
            full = len(found.blocks[scheme])
            ids, hashes = await stored(socket, salt, full)
            assert answer["usage"]["prompt_tokens"] == found.tokens, name
            assert full == len(found.token_ids) // engine.block_tokens >= 1, name
            assert hashes[:full] == list(found.blocks[scheme]), name
            length = full * engine.block_tokens
            assert ids[:length] == found.token_ids[:length].tolist(), name


async def test_a_conversation_costs_its_new_tokens_and_has_the_engines(
    engine: Engine, http: aiohttp.ClientSession, source: ModelSource, tokens: PromptTokens
) -> None:
    scheme = BlockScheme(engine.block_tokens, "sha256_cbor")
    messages: list[dict[str, Any]] = []
    for turn in range(6):
        words = f"In turn {turn}, what of gate {turn * 37}? " * 8
        messages.append({"role": "user" if turn % 2 == 0 else "assistant", "content": words})
        body = {"model": engine.model, "messages": messages}
        found = await tokenised(tokens, source, Kind.CHAT, body, scheme)
        async with http.post(engine.url + "/tokenize", json=body) as reply:
            assert (await reply.json())["tokens"] == found.token_ids.tolist()


async def test_the_tokenizer_is_found_to_be_the_engines(
    engine: Engine, http: aiohttp.ClientSession, source: ModelSource, tokens: PromptTokens
) -> None:
    async def tokenize(body: bytes) -> list[int]:
        headers = {"content-type": "application/json"}
        async with http.post(engine.url + "/tokenize", data=body, headers=headers) as reply:
            assert reply.status == 200
            ids: list[int] = (await reply.json())["tokens"]
            return ids

    assert await tokens.verify(source, tokenize)
