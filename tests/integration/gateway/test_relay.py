from __future__ import annotations

import asyncio
import json

import pytest

from tests.integration.gateway.conftest import (
    CHAT,
    DONE,
    LIMIT_S,
    STREAM,
    TOKENS,
    USAGE_EVENT,
    WHOLE,
    Seen,
    Start,
    answer,
    begin_stream,
    end_stream,
    event,
    send,
    token,
)


async def test_a_reply_that_is_not_streamed_comes_back_as_it_was(start: Start) -> None:
    bench = await start()
    reply = await bench.ask(CHAT)
    assert reply.status == 200
    assert json.loads(reply.body) == WHOLE
    (line,) = await bench.lines.wait(1)
    assert line["outcome"] == "served"
    assert (line["prompt_tokens"], line["cached_tokens"], line["output_tokens"]) == (40, 32, 3)


async def test_the_engine_gets_the_clients_bytes_when_nothing_needs_changing(start: Start) -> None:
    bench = await start()
    body = b'{ "model":"m",\n"messages" : [{"role":"user","content":"\\u00e9 hi"}], "custom": [1] }'
    assert (await bench.ask(body)).status == 200
    assert bench.engines[0].seen[0].body == body


async def test_a_stream_whose_client_asked_for_usage_is_byte_for_byte_the_engines(
    start: Start,
) -> None:
    bench = await start()
    reply = await bench.ask({**STREAM, "stream_options": {"include_usage": True}})
    assert reply.body == TOKENS + USAGE_EVENT + DONE
    assert reply.headers["content-type"].startswith("text/event-stream")


async def test_usage_is_asked_for_and_kept_from_a_client_that_did_not_ask(start: Start) -> None:
    bench = await start()
    reply = await bench.ask(STREAM)
    assert reply.body == TOKENS + DONE
    assert bench.engines[0].seen[0].json["stream_options"] == {"include_usage": True}
    (line,) = await bench.lines.wait(1)
    assert line["cached_tokens"] == 32
    assert line["ttft_s"] is not None
    assert line["tpot_s"] is not None


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
async def test_a_stream_cut_anywhere_by_the_network_arrives_whole(start: Start, size: int) -> None:
    async def cut(_: Seen, writer: asyncio.StreamWriter) -> None:
        data = TOKENS + USAGE_EVENT + DONE
        await begin_stream(writer)
        for at in range(0, len(data), size):
            await send(writer, data[at : at + size])
            await asyncio.sleep(0)
        await end_stream(writer)

    bench = await start()
    bench.engines[0].script = cut
    assert (await bench.ask(STREAM)).body == TOKENS + DONE


async def test_each_token_is_handed_on_before_the_next_is_made(start: Start) -> None:
    passed = asyncio.Event()

    async def slowly(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, token("a"))
        await passed.wait()
        await send(writer, token("b", "stop"), DONE)
        await end_stream(writer)

    bench = await start()
    bench.engines[0].script = slowly
    client = await bench.client()
    await client.ask(STREAM)
    assert (await client.head()).status == 200
    assert await client.piece() == token("a")
    passed.set()
    assert await client.piece() == token("b", "stop")


async def test_connections_are_kept_on_both_sides(start: Start) -> None:
    bench = await start()
    client = await bench.client()
    for _ in range(5):
        await client.ask(STREAM)
        assert (await client.reply()).body == TOKENS + DONE
        await client.ask(CHAT)
        assert (await client.reply()).status == 200
    assert bench.engines[0].connections == 1


async def test_a_client_that_leaves_a_stream_aborts_it_on_the_engine(start: Start) -> None:
    async def endless(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, token("a"))
        await asyncio.sleep(3600)

    bench = await start()
    bench.engines[0].script = endless
    client = await bench.client()
    await client.ask(STREAM)
    await client.head()
    client.writer.close()
    async with asyncio.timeout(LIMIT_S):
        await bench.engines[0].left.wait()
    (line,) = await bench.lines.wait(1)
    assert line["outcome"] == "client_gone"


async def test_a_client_that_leaves_before_the_first_byte_aborts_it_too(start: Start) -> None:
    begun = asyncio.Event()

    async def silent(_: Seen, writer: asyncio.StreamWriter) -> None:
        begun.set()
        await asyncio.sleep(3600)

    bench = await start()
    bench.engines[0].script = silent
    client = await bench.client()
    await client.ask(CHAT)
    async with asyncio.timeout(LIMIT_S):
        await begun.wait()
        client.writer.close()
        await bench.engines[0].left.wait()
    (line,) = await bench.lines.wait(1)
    assert line["outcome"] == "client_gone"
    assert line["attempts"] == 1


async def test_a_slow_reader_holds_the_engine_back_and_memory_stays_bounded(start: Start) -> None:
    sent = 0
    piece = token("x" * 16_000)

    async def flood(_: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await begin_stream(writer)
        for _i in range(4_000):
            await send(writer, piece)
            sent += len(piece)
        await send(writer, token("", "stop"), DONE)
        await end_stream(writer)

    bench = await start()
    bench.engines[0].script = flood
    client = await bench.client()
    await client.ask(STREAM)
    await client.head()
    async with asyncio.timeout(LIMIT_S):
        before = -1
        while sent != before:  # until the engine can send no more
            before = sent
            await asyncio.sleep(0.3)
    assert sent < 32 << 20, "what is on the way is in socket buffers"
    total = 0
    while got := await client.piece():
        total += len(got)
    assert total == 4_000 * len(piece) + len(token("", "stop") + DONE)
    assert (await bench.lines.wait(1))[0]["outcome"] == "served"


async def test_a_client_that_never_reads_is_given_up(start: Start) -> None:
    async def flood(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer)
        while True:
            await send(writer, token("x" * 60_000))

    bench = await start(limits={"stall_s": 0.3})
    bench.engines[0].script = flood
    client = await bench.client()
    await client.ask(STREAM)
    async with asyncio.timeout(LIMIT_S):
        await bench.engines[0].left.wait()
    assert (await bench.lines.wait(1))[0]["outcome"] == "client_gone"


async def test_headers_of_the_hop_stay_and_keys_do_not_travel(start: Start) -> None:
    bench = await start(upstream={"key": "engine-key"})
    reply = await bench.ask(
        CHAT, authorization="Bearer client", traceparent="00-ab-cd-01", x_request_id="mine.1"
    )
    assert reply.headers["x-request-id"] == "mine.1"
    headers = bench.engines[0].seen[0].headers
    assert headers["authorization"] == "Bearer engine-key"
    assert headers["x-request-id"] == "mine.1"
    assert headers["traceparent"] == "00-ab-cd-01"


async def test_a_request_id_that_is_no_token_is_replaced(start: Start) -> None:
    bench = await start()
    reply = await bench.ask(CHAT, x_request_id="a b c")
    assert reply.headers["x-request-id"].startswith("req-")


async def test_a_long_prompt_passes_whole(start: Start) -> None:
    bench = await start()
    text = "word " * 80_000
    body = {**STREAM, "messages": [{"role": "user", "content": text}]}
    assert (await bench.ask(body)).body == TOKENS + DONE
    assert bench.engines[0].seen[0].json["messages"] == body["messages"]


async def test_embeddings_and_tokenize_pass_through(start: Start) -> None:
    async def vectors(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, {"data": [], "usage": {"prompt_tokens": 2, "total_tokens": 2}}))

    bench = await start()
    bench.engines[0].script = vectors
    for path, body in (
        ("/v1/embeddings", {"model": "m", "input": ["a", "b"]}),
        ("/tokenize", {"model": "m", "prompt": "a"}),
        ("/v1/completions", {"model": "m", "prompt": [1, 2, 3]}),
    ):
        assert (await bench.ask(body, path=path)).status == 200
    paths = [seen.line.split(" ")[1] for seen in bench.engines[0].seen]
    assert paths == ["/v1/embeddings", "/tokenize", "/v1/completions"]


async def test_a_stream_of_errors_about_the_request_is_passed_on(start: Start) -> None:
    refusal = event({"error": {"message": "bad", "type": "BadRequestError", "code": 400}})

    async def refuse(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, refusal, DONE)
        await end_stream(writer)

    bench = await start()
    bench.engines[0].script = refuse
    assert (await bench.ask(STREAM)).body == refusal
    assert (await bench.lines.wait(1))[0]["outcome"] == "refused_invalid"
