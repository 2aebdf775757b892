from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from tests.integration.gateway.conftest import (
    CHAT,
    LIMIT_S,
    STREAM,
    Seen,
    Start,
    answer,
    begin_stream,
    end_stream,
)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    digest = hashlib.sha256(b"sesame").hexdigest()
    path.write_text(f"# ours\n{digest} team-a  # laptop\n")
    return path


async def test_a_known_key_opens_and_names_its_tenant(start: Start, keys_file: Path) -> None:
    bench = await start(keys_file=str(keys_file))
    assert (await bench.ask(CHAT, authorization="Bearer sesame")).status == 200
    (line,) = await bench.lines.wait(1)
    assert line["tenant"] == "team-a"


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic c2VzYW1l", "Bearer", "sesame"])
async def test_other_keys_are_refused(start: Start, keys_file: Path, header: str | None) -> None:
    bench = await start(keys_file=str(keys_file))
    headers = {} if header is None else {"authorization": header}
    reply = await bench.ask(CHAT, **headers)
    assert reply.status == 401
    assert reply.error["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == "Bearer"
    assert not bench.engines[0].seen
    assert (await bench.get("/v1/models")).status == 401
    assert (await bench.get("/health")).status == 200


async def test_requests_beyond_the_limit_get_429_and_may_come_again(start: Start) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(_: Seen, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await release.wait()
        writer.write(answer(200, {"choices": []}))

    bench = await start(limits={"concurrent_requests": 1})
    bench.engines[0].script = wait
    first = asyncio.ensure_future(bench.ask(CHAT))
    async with asyncio.timeout(LIMIT_S):
        await begun.wait()
    refused = await bench.ask(CHAT)
    assert refused.status == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.error["type"] == "rate_limit_error"
    release.set()
    assert (await first).status == 200
    assert (await bench.ask(CHAT)).status == 200


async def test_a_declared_length_over_the_limit_is_refused_before_it_is_read(
    start: Start,
) -> None:
    bench = await start()
    client = await bench.client()
    client.writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 104857600\r\n\r\n"
    )
    reply = await client.head()
    assert reply.status == 413


async def test_a_body_of_a_hundred_megabytes_is_refused_and_not_kept(start: Start) -> None:
    bench = await start(limits={"body_bytes": 1 << 20})
    client = await bench.client()
    client.writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    piece = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    for _ in range(100):
        client.writer.write(piece)
        await client.writer.drain()
    client.writer.write(b"0\r\n\r\n")
    reply = await client.reply()
    assert reply.status == 413
    assert reply.error["code"] == "body_too_large"
    assert (await bench.lines.wait(1))[0]["outcome"] == "refused_invalid"


async def test_bodies_together_are_bounded(start: Start) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(_: Seen, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await release.wait()
        writer.write(answer(200, {"choices": []}))

    bench = await start(limits={"total_body_bytes": 2_000})
    bench.engines[0].script = wait
    body = {**CHAT, "pad": "x" * 1_500}
    first = asyncio.ensure_future(bench.ask(body))
    async with asyncio.timeout(LIMIT_S):
        await begun.wait()
    assert (await bench.ask(body)).status == 429
    release.set()
    assert (await first).status == 200
    assert (await bench.ask(body)).status == 200


async def test_a_body_that_does_not_come_is_not_waited_for(start: Start) -> None:
    bench = await start(limits={"body_s": 0.2})
    client = await bench.client()
    client.writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 100\r\n\r\n{"
    )
    assert (await client.head()).status == 400


async def test_a_client_that_leaves_within_its_body_is_accounted_for(start: Start) -> None:
    bench = await start()
    client = await bench.client()
    client.writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"content-length: 100\r\n\r\n{"
    )
    await client.writer.drain()
    client.writer.close()
    assert (await bench.lines.wait(1))[0]["outcome"] == "client_gone"


@pytest.mark.parametrize("media", ["text/plain", "multipart/form-data", "application/jsonx"])
async def test_other_media_are_refused(start: Start, media: str) -> None:
    bench = await start()
    assert (await bench.ask(CHAT, content_type=media)).status == 415


async def test_json_may_name_its_charset(start: Start) -> None:
    bench = await start()
    assert (await bench.ask(CHAT, content_type="Application/JSON; charset=utf-8")).status == 200


async def test_what_is_no_route_is_told_in_openais_shape(start: Start) -> None:
    bench = await start()
    missing = await bench.get("/v2/nothing")
    assert missing.status == 404
    assert missing.error["type"] == "invalid_request_error"
    wrong = await bench.get("/v1/chat/completions")
    assert wrong.status == 405
    assert wrong.error["type"] == "invalid_request_error"


async def test_models_are_those_of_the_endpoints(start: Start) -> None:
    bench = await start()
    listed = await bench.get("/v1/models")
    assert b'"id":"m"' in listed.body
    assert (await bench.get("/v1/models/m")).status == 200
    assert (await bench.get("/v1/models/nope")).status == 404


async def test_expect_100_continue_is_honoured(start: Start) -> None:
    bench = await start()
    client = await bench.client()
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    client.writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    assert (await client.head()).status == 100
    client.writer.write(body)
    assert (await client.reply()).status == 200


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    async def echo(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.json.get("stream"):
            await begin_stream(writer)
            await end_stream(writer)
        writer.write(answer(200, {"choices": [], "user": seen.json["user"]}))

    bench = await start()
    bench.engines[0].script = echo
    client = await bench.client()
    for name in ("a", "b", "c"):
        await client.ask({**CHAT, "user": name})
    for name in ("a", "b", "c"):
        assert f'"user": "{name}"'.encode() in (await client.reply()).body


async def test_an_empty_stream_is_a_failure_and_no_reply(start: Start) -> None:
    async def empty(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer)
        await end_stream(writer)

    bench = await start()
    bench.engines[0].script = empty
    assert (await bench.ask(STREAM)).status == 502


async def test_the_description_of_the_api_holds_the_relayed_routes(start: Start) -> None:
    bench = await start()
    described = json.loads((await bench.get("/openapi.json")).body)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"):
        content = described["paths"][path]["post"]["requestBody"]["content"]
        assert "model" in content["application/json"]["schema"]["required"]
