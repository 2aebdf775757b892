"""Served requests are explained by the gateway that served them."""

import asyncio

import orjson
import pytest

from router.catalog import POLICIES
from router.record import decode, differences, replay
from tests.integration.gateway.conftest import CHAT, STREAM, Seen, Start, answer


async def broken(_: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(500, {}))


@pytest.mark.parametrize("policy", sorted(POLICIES))
async def test_every_served_request_can_be_decided_again(start: Start, policy: str) -> None:
    bench = await start(engines=3, policy=policy)
    for i in range(7):
        assert (await bench.ask(STREAM if i % 2 else CHAT, x_request_id=f"mine-{i}")).status == 200
    await bench.lines.wait(7)
    for i in range(7):
        reply = await bench.get(f"/headrace/v1/decisions/mine-{i}")
        (record,) = decode(reply.body)
        assert (record.policy.name, record.attempt, record.model) == (policy, 0, "m")
        assert len(record.candidates) == 3
        assert record.endpoint_id == bench.lines.rows[i]["endpoint"]
        assert differences(record, replay(record)) == []
        assert record.happened is not None
        assert record.happened.outcome == "served"
        assert record.happened.usage is not None
        assert record.happened.usage.cached_tokens == 32
        assert (record.happened.ttft_s is None) == (bench.lines.rows[i]["ttft_s"] is None)


async def test_each_attempt_of_a_retried_request_can_be_decided_again(start: Start) -> None:
    bench = await start(engines=2)
    for engine in bench.engines:
        engine.script = broken
    assert (await bench.ask(CHAT, x_request_id="hopeless")).status == 502
    await bench.lines.wait(1)
    records = decode((await bench.get("/headrace/v1/decisions/hopeless")).body)
    assert [(r.attempt, len(r.candidates)) for r in records] == [(0, 2), (1, 1)]
    assert [differences(r, replay(r)) for r in records] == [[], []]
    first, last = records
    assert first.happened is None
    assert last.happened is not None
    assert last.happened.outcome == "engine_failed"


async def test_the_routes_answer_before_anything_was_asked(start: Start) -> None:
    bench = await start(routing={"decisions": 2})
    listed = orjson.loads((await bench.get("/headrace/v1/decisions")).body)
    assert (listed["data"], listed["kept"]) == ([], 0)
    unknown = await bench.get("/headrace/v1/decisions/nobody")
    assert unknown.status == 404
    assert "no decision" in orjson.loads(unknown.body)["error"]["message"]
    for i in range(3):
        await bench.ask(CHAT, x_request_id=f"r{i}")
    await bench.lines.wait(3)
    listed = orjson.loads((await bench.get("/headrace/v1/decisions?limit=9")).body)
    assert [row["request_id"] for row in listed["data"]] == ["r2", "r1"]
    assert {row["outcome"] for row in listed["data"]} == {"served"}


async def test_a_shadow_hears_of_every_decision(start: Start) -> None:
    bench = await start(engines=2, routing={"shadow": "least-requests"})
    for _ in range(3):
        await bench.ask(CHAT)
    shadow = orjson.loads((await bench.get("/headrace/v1/shadow")).body)["shadow"]
    assert (shadow["policy"], shadow["agreed"], shadow["disagreed"]) == ("least-requests", 3, 0)
    assert await bench.metric('headrace_shadow_decisions_total{result="agreed"}')


async def test_without_a_shadow_there_is_none_to_report(start: Start) -> None:
    bench = await start()
    assert (await bench.get("/headrace/v1/shadow")).status == 404
    assert await bench.metric("headrace_shadow_decisions_total{") == []
