from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from gateway.forward import BROKEN_EVENT
from headrace.core.endpoint import Health
from headrace.core.errors import ConfigError
from tests.integration.gateway.conftest import (
    CHAT,
    DONE,
    LIMIT_S,
    STREAM,
    TOKENS,
    Bench,
    FakeEngine,
    Script,
    Seen,
    Start,
    answer,
    begin_stream,
    end_stream,
    event,
    send,
    token,
)


def refusing(status: int) -> Script:
    async def script(_: Seen, writer: asyncio.StreamWriter) -> None:
        body = {"error": {"message": "m", "type": "t", "param": None, "code": status}}
        writer.write(answer(status, body))

    return script


async def hang_up(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def shutting_down(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Do what vLLM does between SIGTERM and its end: 200 and nothing in it."""
    if seen.json.get("stream"):
        await begin_stream(writer, DONE)
        await end_stream(writer)
    else:
        choice = {"index": 0, "message": {"content": ""}, "finish_reason": "abort"}
        writer.write(answer(200, {"choices": [choice]}))


async def error_first(_: Seen, writer: asyncio.StreamWriter) -> None:
    await begin_stream(writer, event({"error": {"message": "EngineCore", "code": 500}}), DONE)
    await end_stream(writer)


async def silent(_: Seen, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def not_http(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")


async def endless_head(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"x-pad: " + b"y" * 4_000 + b"\r\n")
            await writer.drain()


def fail_first(bench: Bench, script: Script) -> list[FakeEngine]:
    """Let whichever engine is asked first fail, once; return the engines in the order asked."""
    order: list[FakeEngine] = []

    def make(engine: FakeEngine) -> Script:
        healthy = engine.script

        async def maybe(seen: Seen, writer: asyncio.StreamWriter) -> None:
            order.append(engine)
            await (script if len(order) == 1 else healthy)(seen, writer)

        return maybe

    for engine in bench.engines:
        engine.script = make(engine)
    return order


FAILURES = [
    refusing(500),
    refusing(502),
    refusing(503),
    refusing(429),
    refusing(401),
    hang_up,
    shutting_down,
    not_http,
]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_failure_before_the_first_byte_is_tried_on_another_endpoint(
    start: Start, failure: Script, body: dict[str, object]
) -> None:
    bench = await start(engines=2)
    order = fail_first(bench, failure)
    reply = await bench.ask(body)
    assert reply.status == 200
    assert len({engine.name for engine in order}) == 2
    (line,) = await bench.lines.wait(1)
    assert (line["outcome"], line["attempts"]) == ("served", 2)
    assert await bench.metric("headrace_retries_total{")


async def test_an_error_as_first_event_of_a_stream_is_tried_on_another_endpoint(
    start: Start,
) -> None:
    bench = await start(engines=2)
    fail_first(bench, error_first)
    assert (await bench.ask(STREAM)).body == TOKENS + DONE


async def test_silence_before_the_first_byte_is_tried_on_another_endpoint(start: Start) -> None:
    bench = await start(engines=2, upstream={"first_byte_s": 0.3, "reply_s": 0.3})
    order = fail_first(bench, silent)
    assert (await bench.ask(STREAM)).body == TOKENS + DONE
    async with asyncio.timeout(LIMIT_S):
        await order[0].left.wait()
    assert await bench.metric('headrace_retries_total{reason="timeout"} 1.0')


async def test_an_endpoint_that_cannot_be_reached_is_left_alone_for_a_while(start: Start) -> None:
    bench = await start(engines=2, retry={"rest_first_s": 60, "rest_most_s": 60})
    await bench.engines[0].stop()
    for _ in range(6):
        assert (await bench.ask(CHAT)).status == 200
    lines = await bench.lines.wait(6)
    assert sum(line["attempts"] == 2 for line in lines) <= 1


async def test_when_all_rest_they_are_tried_all_the_same(start: Start) -> None:
    bench = await start(engines=1, retry={"rest_first_s": 60, "rest_most_s": 60})
    engine = bench.engines[0]
    await engine.stop()
    assert (await bench.ask(CHAT)).status == 502
    fresh = FakeEngine(engine.name)
    await fresh.start()
    bench.engines.append(fresh)
    bench.source.put(fresh.view)
    assert (await bench.ask(CHAT)).status == 200


async def test_attempts_are_bounded(start: Start) -> None:
    bench = await start(engines=5, retry={"attempts": 3})
    for engine in bench.engines:
        engine.script = refusing(500)
    reply = await bench.ask(CHAT)
    assert reply.status == 502
    assert reply.error["code"] == "engine_failed"
    assert sum(len(engine.seen) for engine in bench.engines) == 3
    assert (await bench.lines.wait(1))[0]["outcome"] == "engine_failed"


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refusal_of_the_request_is_passed_on_and_not_retried(
    start: Start, status: int
) -> None:
    bench = await start(engines=2)
    for engine in bench.engines:
        engine.script = refusing(status)
    reply = await bench.ask(CHAT)
    assert reply.status == status
    assert reply.error["code"] == status
    assert sum(len(engine.seen) for engine in bench.engines) == 1
    assert (await bench.lines.wait(1))[0]["outcome"] == "refused_invalid"


async def test_a_refusal_in_another_shape_is_put_into_openais(start: Start) -> None:
    async def fastapi(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(404, {"detail": "Not Found"}))

    bench = await start()
    bench.engines[0].script = fastapi
    reply = await bench.ask(CHAT)
    assert reply.status == 404
    assert reply.error["type"] == "invalid_request_error"


async def test_full_engines_make_a_503_with_retry_after(start: Start) -> None:
    bench = await start(engines=2)
    for engine in bench.engines:
        engine.script = refusing(503)
    reply = await bench.ask(CHAT)
    assert reply.status == 503
    assert reply.headers["retry-after"] == "1"
    assert (await bench.lines.wait(1))[0]["outcome"] == "refused_full"


def cut_after(*pieces: bytes, clean: bool) -> Script:
    async def script(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, *pieces)
        if clean:
            await end_stream(writer)
        else:
            writer.transport.close()

    return script


BROKEN = [
    cut_after(token("a"), clean=False),
    cut_after(token("a"), clean=True),
    cut_after(token("a"), DONE, clean=True),
    cut_after(token("a"), token("", "abort"), DONE, clean=True),
    cut_after(token("a"), event({"error": {"message": "secret", "code": 500}}), clean=True),
]


@pytest.mark.parametrize("script", BROKEN)
async def test_a_stream_that_breaks_ends_with_an_error_and_is_never_repeated(
    start: Start, script: Script
) -> None:
    bench = await start(engines=2)
    for engine in bench.engines:
        engine.script = script
    reply = await bench.ask(STREAM)
    assert reply.status == 200
    assert reply.body == token("a") + BROKEN_EVENT
    assert sum(len(engine.seen) for engine in bench.engines) == 1
    (line,) = await bench.lines.wait(1)
    assert (line["outcome"], line["attempts"]) == ("engine_failed", 1)


async def test_a_stream_that_goes_silent_is_taken_for_hung(start: Start) -> None:
    async def hang(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, token("a"))
        await asyncio.sleep(3600)

    bench = await start(upstream={"idle_s": 0.3})
    bench.engines[0].script = hang
    assert (await bench.ask(STREAM)).body == token("a") + BROKEN_EVENT
    async with asyncio.timeout(LIMIT_S):
        await bench.engines[0].left.wait()


async def test_a_kept_connection_that_the_engine_closed_is_no_failure(start: Start) -> None:
    async def once(_: Seen, writer: asyncio.StreamWriter) -> None:
        if len(bench.engines[0].seen) == 2:
            writer.transport.abort()
        else:
            writer.write(answer(200, {"choices": []}))

    bench = await start(retry={"rest_first_s": 60, "rest_most_s": 60})
    bench.engines[0].script = once
    assert (await bench.ask(CHAT)).status == 200
    assert (await bench.ask(CHAT)).status == 200
    assert (await bench.lines.wait(2))[1]["attempts"] == 2
    assert bench.engines[0].connections == 2


async def test_such_a_connection_is_forgiven_once_even_without_retries(start: Start) -> None:
    async def from_the_second_on(_: Seen, writer: asyncio.StreamWriter) -> None:
        if len(bench.engines[0].seen) == 1:
            writer.write(answer(200, {"choices": []}))
        else:
            writer.transport.abort()

    bench = await start(retry={"attempts": 1})
    bench.engines[0].script = from_the_second_on
    assert (await bench.ask(CHAT)).status == 200
    reply = await bench.ask(CHAT)
    assert reply.status == 502
    assert reply.error["code"] == "engine_unreachable"
    assert len(bench.engines[0].seen) == 3


async def test_an_endless_head_is_cut_off(start: Start) -> None:
    bench = await start(upstream={"head_bytes": 8_192})
    bench.engines[0].script = endless_head
    assert (await bench.ask(CHAT)).status == 502


async def test_a_reply_longer_than_allowed_is_refused(start: Start) -> None:
    async def long(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, {"choices": [], "text": "x" * 5_000}))

    bench = await start(upstream={"reply_bytes": 2_048})
    bench.engines[0].script = long
    assert (await bench.ask(CHAT)).status == 502


async def test_a_full_pool_sends_requests_elsewhere(start: Start) -> None:
    release = asyncio.Event()

    async def wait(_: Seen, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(answer(200, {"choices": []}))

    bench = await start(engines=2, upstream={"connections_per_endpoint": 1})
    for engine in bench.engines:
        engine.script = wait
    asked = [asyncio.ensure_future(bench.ask(CHAT)) for _ in range(3)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=LIMIT_S)
    (refused,) = done
    assert refused.result().status == 503
    release.set()
    statuses = sorted(reply.status for reply in await asyncio.gather(*asked))
    assert statuses == [200, 200, 503]


async def test_no_ready_endpoint_is_a_503_and_not_ready(start: Start) -> None:
    bench = await start()
    view = bench.engines[0].view
    bench.source.put(type(view)(view.endpoint_id, view.url, view.models, health=Health.DRAINING))
    async with asyncio.timeout(LIMIT_S):
        while (await bench.get("/ready")).status == 200:
            pass
    assert (await bench.ask(CHAT)).status == 503
    assert (await bench.get("/health")).status == 200


async def test_stopping_lets_streams_finish_and_takes_no_more(start: Start) -> None:
    passed = asyncio.Event()

    async def slowly(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, token("a"))
        await passed.wait()
        await send(writer, token("b", "stop"), DONE)
        await end_stream(writer)

    bench = await start(drain_s=LIMIT_S)
    bench.engines[0].script = slowly
    client = await bench.client()
    await client.ask(STREAM)
    await client.head()
    assert await client.piece() == token("a")
    bench.stop.set()
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", bench.port)
            except ConnectionError:
                break
            writer.close()
            await asyncio.sleep(0.01)
    assert not bench.task.done()
    passed.set()
    assert await client.piece() == token("b", "stop")
    assert await client.piece() == DONE
    async with asyncio.timeout(LIMIT_S):
        await bench.task
    assert bench.lines.rows[0]["outcome"] == "served"


async def test_streams_longer_than_the_drain_limit_are_cut_and_accounted_for(start: Start) -> None:
    async def endless(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, token("a"))
        await asyncio.sleep(3600)

    bench = await start(drain_s=0.0)
    bench.engines[0].script = endless
    client = await bench.client()
    await client.ask(STREAM)
    await client.head()
    bench.stop.set()
    async with asyncio.timeout(LIMIT_S):
        await bench.engines[0].left.wait()
        await bench.task
    assert [row["outcome"] for row in bench.lines.rows] == ["cut"]


async def test_a_taken_port_is_a_settings_error(start: Start) -> None:
    bench = await start()
    with pytest.raises(ConfigError, match="cannot listen"):
        await start(port=bench.port)


async def test_every_outcome_is_counted_once(start: Start) -> None:
    bench = await start()
    await bench.ask(CHAT)
    await bench.ask({**CHAT, "model": "unheard-of"})
    await bench.ask(b"{")
    counted = await bench.metric("headrace_requests_total{")
    assert sorted(counted) == [
        'headrace_requests_total{model="m",outcome="served"} 1.0',
        'headrace_requests_total{model="unknown",outcome="refused_invalid"} 2.0',
    ]
    assert json.dumps(bench.lines.rows, default=str).count("unheard-of") >= 1
