"""Connections: whole and in pieces, in a row and mixed, endless, slow, idle and too many."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.integration.gateway.conftest import CHAT, LIMIT_S, STREAM, Client, Start


def request(value: object, **headers: str) -> bytes:
    body = json.dumps(value).encode()
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"{extra}content-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def closed(client: Client) -> bytes:
    """Read until the gateway closes the connection."""
    async with asyncio.timeout(LIMIT_S):
        try:
            return await client.reader.read()
        except ConnectionResetError:
            return b""


async def test_a_request_that_comes_byte_by_byte_is_served(start: Start) -> None:
    client = await (await start()).client()
    for byte in request(CHAT):
        client.writer.write(bytes([byte]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.reply()).status == 200


async def test_a_body_may_come_long_after_its_head(start: Start) -> None:
    bench = await start()
    client = await bench.client()
    head, _, body = request(STREAM).partition(b"\r\n\r\n")
    client.writer.write(head + b"\r\n\r\n")
    await client.writer.drain()
    assert (await bench.get("/health")).status == 200
    client.writer.write(body)
    reply = await client.reply()
    assert reply.body.endswith(b"data: [DONE]\n\n")


async def test_relayed_and_other_requests_share_a_connection_in_any_order(start: Start) -> None:
    bench = await start()
    client = await bench.client()
    get = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    client.writer.write(request(CHAT) + request(STREAM) + get + request(CHAT) + get)
    replies = [await client.reply() for _ in range(5)]
    assert [reply.status for reply in replies] == [200] * 5
    assert [b"[DONE]" in reply.body for reply in replies] == [False, True, False, False, False]
    assert [b'"status"' in reply.body for reply in replies] == [False, False, True, False, True]
    assert len(await bench.lines.wait(3)) == 3


async def test_after_a_refusal_the_rest_of_its_body_is_no_request(start: Start) -> None:
    bench = await start()
    client = await bench.client()
    refused = request({"x": "y" * 1_000}, **{"content-type": "text/plain"}).replace(
        b"content-type: application/json\r\n", b""
    )
    client.writer.write(refused[:-500])
    assert (await client.reply()).status == 415
    client.writer.write(refused[-500:] + request(CHAT))
    assert (await client.reply()).status == 200
    assert [row["outcome"] for row in await bench.lines.wait(2)] == ["refused_invalid", "served"]


async def test_headers_over_the_limit_get_431_in_openais_shape(start: Start) -> None:
    bench = await start(limits={"head_bytes": 2_048})
    client = await bench.client()
    client.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx-long: " + b"y" * 4_096)
    if bench.turned_cold:  # uvicorn has the connection, and we can only cut it
        assert await closed(client) == b""
        return
    reply = await client.reply()
    assert reply.status == 431
    assert "2048" in str(reply.error["message"])
    assert await closed(client) == b""


async def test_headers_within_the_limit_pass_however_they_are_cut(start: Start) -> None:
    bench = await start(limits={"head_bytes": 2_048})
    client = await bench.client()
    for _ in range(3):
        whole = request(CHAT, **{"x-long": "y" * 1_500})
        client.writer.write(whole[:1_000])
        await client.writer.drain()
        await asyncio.sleep(0.01)
        client.writer.write(whole[1_000:])
        assert (await client.reply()).status == 200


@pytest.mark.parametrize("begun", [b"", b"POST /v1/chat/completions HT", b"GET /heal"])
async def test_a_client_that_does_not_send_its_headers_is_cut_off(
    start: Start, begun: bytes
) -> None:
    bench = await start(limits={"head_s": 0.05, "keepalive_s": 1})
    client = await bench.client()
    client.writer.write(begun)
    assert await closed(client) == b""


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(start: Start) -> None:
    bench = await start(limits={"keepalive_s": 1, "head_s": 0.05})
    busy, idle = await bench.client(), await bench.client()
    served = bench.engines[0].script
    go_on = asyncio.Event()

    async def slowly(*args: object) -> None:
        await go_on.wait()
        await served(*args)  # type: ignore[arg-type]

    await idle.ask(CHAT)
    assert (await idle.reply()).status == 200
    bench.engines[0].script = slowly
    await busy.ask(CHAT)
    assert await closed(idle) == b""
    go_on.set()
    assert (await busy.reply()).status == 200


async def test_connections_beyond_the_limit_get_503(start: Start) -> None:
    bench = await start(limits={"connections": 3})
    clients = [await bench.client() for _ in range(2)]
    for client in clients:
        await client.ask(CHAT)
        assert (await client.reply()).status == 200
    over = [Client(*await asyncio.open_connection("127.0.0.1", bench.port)) for _ in range(2)]
    statuses = []
    for client in over:
        await client.ask(CHAT)
        statuses.append((await client.head()).status)
        client.writer.close()
    assert 503 in statuses


async def test_nothing_is_held_of_connections_that_are_gone(start: Start) -> None:
    bench = await start()
    for _ in range(20):
        client = await bench.client()
        await client.ask(STREAM)
        await client.head()
        client.writer.close()
    rows = await bench.lines.wait(20)
    assert {row["outcome"] for row in rows} <= {"served", "client_gone"}
