"""One engine computes the prompt, another the reply; or one does both when anything goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from headrace.core.endpoint import Health, Role, Speed
from headrace.core.ids import EndpointId
from tests.integration.gateway.conftest import (
    CHAT,
    DONE,
    LIMIT_S,
    STREAM,
    TOKENS,
    USAGE,
    USAGE_EVENT,
    WHOLE,
    Bench,
    FakeEngine,
    Script,
    Seen,
    Start,
    answer,
    begin_stream,
    end_stream,
    event,
    token,
    well,
)

PARAMS = {"do_remote_prefill": True, "remote_engine_id": "p", "remote_block_ids": [1, 2]}
ASKED = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
FAST = Speed(prefill_tokens_per_s=1e6)
SLOW = Speed(prefill_tokens_per_s=10.0)


async def hand_over(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, {**WHOLE, "kv_transfer_params": PARAMS}))


async def disaggregated(start: Start, decoders: int = 1, **settings: object) -> Bench:
    """One engine that computes prompts fast, and some that hardly do but may."""
    bench = await start(engines=1 + decoders, policy="expected-ttft", **settings)
    prefill, *rest = bench.engines
    prefill.script = hand_over
    for engine in rest:
        bench.source.put(replace(engine.view, role=Role.DECODE, speed=SLOW))
    bench.source.put(replace(prefill.view, role=Role.PREFILL, speed=FAST))
    await until(lambda: bench.router.endpoint(EndpointId(prefill.name)).role is Role.PREFILL)
    return bench


async def until(condition: Callable[[], bool]) -> None:
    """Let the gateway take over a change of its endpoints, which takes a few turns of the loop."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise TimeoutError("the gateway did not take note")


async def splits(bench: Bench) -> dict[str, float]:
    lines = await bench.metric("headrace_split_requests_total{")
    counts = {line.split('"')[1]: float(line.split()[-1]) for line in lines}
    return {result: count for result, count in counts.items() if count}


async def test_the_prompt_goes_to_one_and_the_reply_comes_from_the_other(start: Start) -> None:
    bench = await disaggregated(start)
    prefill, decode = bench.engines
    reply = await bench.ask({**STREAM, "max_tokens": 50}, X_Request_Id="mine")
    assert (reply.status, reply.body) == (200, TOKENS + DONE)
    (first,), (second,) = prefill.seen, decode.seen
    assert first.json == {**CHAT, "stream": False, "max_tokens": 1, "kv_transfer_params": ASKED}
    usage = {"include_usage": True}
    asked = {**STREAM, "max_tokens": 50, "stream_options": usage, "kv_transfer_params": PARAMS}
    assert second.json == asked
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == "mine"
    (row,) = await bench.lines.wait(1)
    assert (row["endpoint"], row["attempts"], row["outcome"]) == (decode.name, 1, "served")
    assert row["prompt_tokens"] == USAGE["prompt_tokens"]
    assert (await splits(bench))["handed_over"] == 1.0


async def test_a_reply_that_is_not_streamed_is_split_too(start: Start) -> None:
    bench = await disaggregated(start)
    reply = await bench.ask(CHAT)
    assert json.loads(reply.body)["usage"] == USAGE
    assert [len(engine.seen) for engine in bench.engines] == [1, 1]


async def test_the_decision_shows_both_plans(start: Start) -> None:
    bench = await disaggregated(start)
    await bench.ask(CHAT, X_Request_Id="mine")
    told = json.loads((await bench.get("/headrace/v1/decisions/mine")).body)
    (record,) = told["attempts"]
    plans = [(terms["prefill_id"], terms["endpoint_id"]) for terms in record["ranking"]]
    assert plans == [("e0", "e1"), (None, "e1")]
    listed = json.loads((await bench.get("/headrace/v1/decisions")).body)
    assert listed["data"][0]["prefill_endpoint"] == "e0"


async def refuse(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(500, {"error": {"message": "m", "type": "t", "code": 500}}))


async def busy(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(503, {"error": {"message": "m", "type": "t", "code": 503}}))


async def blame(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(400, {"error": {"message": "m", "type": "t", "code": 400}}))


async def hang_up(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def silent(_: Seen, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3_600)


async def without_params(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, {**WHOLE, "kv_transfer_params": None}))


async def nonsense(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{{{")


async def streams_anyway(_: Seen, writer: asyncio.StreamWriter) -> None:
    await begin_stream(writer, token("not for the client"), USAGE_EVENT, DONE)
    await end_stream(writer)


@pytest.mark.parametrize(
    "script",
    [refuse, busy, blame, hang_up, silent, without_params, nonsense, streams_anyway],
)
async def test_whatever_the_first_does_wrong_the_client_is_served_by_one(
    start: Start, script: Script
) -> None:
    limits = {"first_byte_s": 0.3} if script is silent else {}
    bench = await disaggregated(start, upstream=limits, retry={"attempts": 1})
    prefill, decode = bench.engines
    prefill.script = script
    reply = await bench.ask(STREAM)
    assert (reply.status, reply.body) == (200, TOKENS + DONE)
    assert len(prefill.seen) == 1
    assert ["kv_transfer_params" in seen.json for seen in decode.seen] == [False]
    (row,) = await bench.lines.wait(1)
    assert (row["outcome"], row["attempts"]) == ("served", 2)
    assert await splits(bench) == {"prefill_failed": 1.0}


async def test_an_engine_that_is_not_there_is_not_asked_again_at_once(start: Start) -> None:
    bench = await disaggregated(start)
    prefill, decode = bench.engines
    await prefill.stop()
    for _ in range(3):
        assert (await bench.ask(STREAM)).status == 200
    assert len(decode.seen) == 3
    assert await splits(bench) == {"prefill_failed": 1.0}


def only_alone(script: Script) -> Script:
    """Fail a request that comes with a prompt computed elsewhere; serve any other."""

    async def act(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await (script if "kv_transfer_params" in seen.json else well)(seen, writer)

    return act


async def error_first(_: Seen, writer: asyncio.StreamWriter) -> None:
    await begin_stream(writer, event({"error": {"message": "EngineCore", "code": 500}}), DONE)
    await end_stream(writer)


@pytest.mark.parametrize("script", [refuse, blame, error_first])
async def test_one_that_cannot_fetch_the_prompt_is_asked_to_do_all_of_it(
    start: Start, script: Script
) -> None:
    bench = await disaggregated(start, retry={"attempts": 1})
    prefill, decode = bench.engines
    decode.script = only_alone(script)
    reply = await bench.ask(STREAM)
    assert (reply.status, reply.body) == (200, TOKENS + DONE)
    assert (len(prefill.seen), len(decode.seen)) == (1, 2)
    assert await splits(bench) == {"handed_over": 1.0, "decode_failed": 1.0}


@pytest.mark.parametrize("script", [busy, hang_up])
async def test_one_that_is_full_or_breaks_leaves_the_request_to_another(
    start: Start, script: Script
) -> None:
    bench = await disaggregated(start, decoders=2, retry={"attempts": 1})
    _, *decoders = bench.engines
    for engine in decoders:
        engine.script = only_alone(script)
    reply = await bench.ask(STREAM)
    assert (reply.status, reply.body) == (200, TOKENS + DONE)
    assert sorted(len(engine.seen) for engine in decoders) == [1, 1]


async def test_after_the_first_byte_nothing_is_tried_again(start: Start) -> None:
    async def break_off(_: Seen, writer: asyncio.StreamWriter) -> None:
        await begin_stream(writer, token("Hel"))
        writer.transport.close()

    bench = await disaggregated(start)
    prefill, decode = bench.engines
    decode.script = break_off
    reply = await bench.ask(STREAM)
    assert b"the engine failed" in reply.body
    assert (len(prefill.seen), len(decode.seen)) == (1, 1)
    (row,) = await bench.lines.wait(1)
    assert row["outcome"] == "engine_failed"


async def test_a_client_that_leaves_meanwhile_ends_the_first_engines_work(start: Start) -> None:
    asked = asyncio.Event()

    async def wait(_: Seen, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(3_600)

    bench = await disaggregated(start)
    prefill, decode = bench.engines
    prefill.script = wait
    client = await bench.client()
    await client.ask(STREAM)
    async with asyncio.timeout(LIMIT_S):
        await asked.wait()
        client.writer.transport.abort()
        await prefill.left.wait()
    (row,) = await bench.lines.wait(1)
    assert row["outcome"] == "client_gone"
    assert decode.seen == []


@pytest.mark.parametrize("extra", [{"n": 2}, {"prompt_logprobs": 1}, {"kv_transfer_params": {}}])
async def test_what_cannot_be_split_is_sent_to_one(start: Start, extra: dict[str, object]) -> None:
    bench = await disaggregated(start)
    prefill, decode = bench.engines
    assert (await bench.ask({**STREAM, **extra})).status == 200
    assert (prefill.seen, len(decode.seen)) == ([], 1)


async def test_without_an_engine_for_prompts_that_is_ready_one_does_both(start: Start) -> None:
    bench = await disaggregated(start)
    prefill, decode = bench.engines
    view = bench.router.endpoint(EndpointId(prefill.name))
    bench.source.put(replace(view, health=Health.DRAINING))
    await until(lambda: bench.router.endpoint(view.endpoint_id).health is Health.DRAINING)
    assert (await bench.ask(STREAM)).status == 200
    assert (prefill.seen, len(decode.seen)) == ([], 1)


async def test_an_engine_that_only_computes_prompts_is_never_asked_for_a_reply(
    start: Start,
) -> None:
    bench = await disaggregated(start)
    prefill, decode = bench.engines
    bench.source.remove(EndpointId(decode.name))
    await until(lambda: len(bench.router.endpoints()) == 1)
    assert (await bench.ask(STREAM)).status == 503
    assert prefill.seen == []


async def test_a_kept_connection_that_had_gone_stale_is_replaced(start: Start) -> None:
    bench = await disaggregated(start)
    prefill: FakeEngine = bench.engines[0]
    await bench.ask(STREAM)

    async def once(seen: Seen, writer: asyncio.StreamWriter) -> None:
        prefill.script = hand_over
        writer.transport.abort()

    prefill.script = once
    assert (await bench.ask(STREAM)).status == 200
    assert (await splits(bench)) == {"handed_over": 2.0}
