from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace.core.errors import ConfigError
from headrace.core.outcome import Outcome
from headrace.simulator.trace import TraceRequest
from headrace.twin.replay import ReplaySettings, Tally, replay, served_model
from headrace.twin.sse import SseClient, Target
from tests.integration.twin.conftest import FakeOpenAi


@pytest.fixture
async def client(fake: FakeOpenAi) -> AsyncIterator[SseClient]:
    client = SseClient(Target.parse(fake.url, api_key="sesame"), request_s=10.0)
    yield client
    await client.close()


def workload(count: int, *, gap_s: float = 0.1, output_tokens: int = 5) -> list[TraceRequest]:
    return [
        TraceRequest(
            arrival_s=3.0 + index * gap_s,
            prompt_tokens=600,
            output_tokens=output_tokens,
            hash_ids=(0, index + 1),
            hash_block_tokens=512,
        )
        for index in range(count)
    ]


SETTINGS = ReplaySettings(model="fake", time_scale=10.0)


async def test_every_request_is_sent_as_the_trace_says_and_measured(
    fake: FakeOpenAi, client: SseClient
) -> None:
    tally = Tally()
    result = await replay(workload(20), client, SETTINGS, tally=tally)
    assert [record.outcome for record in result.records] == [Outcome.SERVED] * 20
    assert {r.usage.prompt_tokens for r in result.records} == {600}
    assert {r.usage.output_tokens for r in result.records} == {5}
    assert {r.usage.cached_tokens for r in result.records} == {300}
    assert all(0 < r.ttft_s <= r.e2e_s for r in result.records)
    assert (tally.sent, tally.ended, tally.failed) == (20, 20, 0)
    assert sorted(r.arrival_s for r in result.records) == pytest.approx(
        [3.0 + n * 0.1 for n in range(20)]
    )
    body = fake.bodies[0]
    assert (body["model"], body["max_tokens"], body["stream"]) == ("fake", 5, True)
    assert (body["ignore_eos"], body["stream_options"]) == (True, {"include_usage": True})
    prompts = [str(body["prompt"]) for body in fake.bodies]
    assert len({prompt[:2048] for prompt in prompts}) == 1
    assert len(set(prompts)) == 20
    assert "authorization: Bearer sesame" in fake.heads[0]


async def test_times_are_reported_in_engine_seconds(fake: FakeOpenAi, client: SseClient) -> None:
    fake.chunk_gap_s = 0.02
    result = await replay(workload(1), client, SETTINGS)
    record = result.records[0]
    assert record.e2e_s >= 10.0 * 5 * 0.02
    assert record.tpot_s is not None
    assert record.tpot_s >= 0.2


async def test_arrivals_do_not_wait_for_earlier_requests(
    fake: FakeOpenAi, client: SseClient
) -> None:
    fake.chunk_gap_s = 0.2
    result = await replay(workload(10), client, SETTINGS)
    assert result.wall_s < 10 * 5 * 0.2  # ten replies of five chunks, one after the other
    assert fake.connections > 1


async def test_connections_are_used_again(fake: FakeOpenAi, client: SseClient) -> None:
    await replay(workload(10, gap_s=1.0, output_tokens=1), client, SETTINGS)
    assert fake.connections <= 2


async def test_a_connection_the_server_closed_is_replaced(
    fake: FakeOpenAi, client: SseClient
) -> None:
    fake.close_after_reply = True
    result = await replay(workload(5, gap_s=0.5, output_tokens=1), client, SETTINGS)
    assert [record.outcome for record in result.records] == [Outcome.SERVED] * 5


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (400, Outcome.REFUSED_INVALID),
        (401, Outcome.REFUSED_AUTH),
        (429, Outcome.REFUSED_FULL),
        (503, Outcome.REFUSED_FULL),
        (500, Outcome.ENGINE_FAILED),
    ],
)
async def test_a_refusal_becomes_its_outcome(
    fake: FakeOpenAi, client: SseClient, status: int, outcome: Outcome
) -> None:
    fake.status = status
    tally = Tally()
    result = await replay(workload(1), client, SETTINGS, tally=tally)
    assert [record.outcome for record in result.records] == [outcome]
    assert result.records[0].ttft_s == 0.0
    assert tally.failed == 1
    assert str(status) in tally.last_failure


async def test_a_stream_that_is_cut_is_a_failure(fake: FakeOpenAi, client: SseClient) -> None:
    fake.cut_after_chunks = 3
    result = await replay(workload(2), client, SETTINGS)
    assert {record.outcome for record in result.records} == {Outcome.ENGINE_FAILED}


async def test_an_error_event_in_the_stream_is_a_failure(
    fake: FakeOpenAi, client: SseClient
) -> None:
    fake.error_in_stream = True
    tally = Tally()
    result = await replay(workload(1), client, SETTINGS, tally=tally)
    assert result.records[0].outcome is Outcome.ENGINE_FAILED
    assert "engine died" in tally.last_failure


async def test_a_request_that_takes_too_long_is_a_failure(fake: FakeOpenAi) -> None:
    fake.chunk_gap_s = 0.2
    hasty = SseClient(Target.parse(fake.url), request_s=0.1)
    result = await replay(workload(1, output_tokens=1000), hasty, SETTINGS)
    assert result.records[0].outcome is Outcome.ENGINE_FAILED


async def test_stopping_ends_what_is_in_flight_as_client_gone(
    fake: FakeOpenAi, client: SseClient
) -> None:
    fake.chunk_gap_s = 0.02
    stop, tally = asyncio.Event(), Tally()
    running = asyncio.create_task(
        replay(
            workload(100, gap_s=1.0, output_tokens=10_000),
            client,
            SETTINGS,
            tally=tally,
            stop=stop,
        )
    )
    await fake.three_came.wait()
    stop.set()
    result = await running
    assert {record.outcome for record in result.records} == {Outcome.CLIENT_GONE}
    assert len(result.records) == tally.sent < 100


async def test_no_more_than_the_limit_are_in_flight(fake: FakeOpenAi, client: SseClient) -> None:
    fake.chunk_gap_s = 0.01
    settings = ReplaySettings(model="fake", time_scale=100.0, max_inflight=2)
    result = await replay(workload(8), client, settings)
    assert fake.connections <= 2
    assert len(result.records) == 8
    assert result.lateness.max_s > 0.02


async def test_an_endpoint_that_is_not_there_is_a_failure() -> None:
    client = SseClient(Target.parse("http://127.0.0.1:1"))
    result = await replay(workload(2), client, SETTINGS)
    assert {record.outcome for record in result.records} == {Outcome.ENGINE_FAILED}
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1"):
        await served_model(client)


async def test_the_first_model_listed_is_found(client: SseClient) -> None:
    assert await served_model(client) == "fake"


async def test_a_later_turn_sends_the_real_answer_back(fake: FakeOpenAi, client: SseClient) -> None:
    turns = [
        TraceRequest(0.0, 40, 10, (1, 2, 3), 16, (4,), "talk"),
        TraceRequest(5.0, 60, 10, (1, 2, 3, 4), 16, (5,), "talk"),
        TraceRequest(5.0, 60, 10, (1, 2, 3, 4), 16, (5,), "other"),
    ]
    await replay(turns, client, SETTINGS)
    first, later, other = (str(body["prompt"]) for body in fake.bodies)
    assert later[:200] == first + "abcd" * 10
    assert other[:160] == first
    assert other[160:200] != later[160:200]
    assert other[200:] == later[200:]


async def test_chat_sends_messages(fake: FakeOpenAi, client: SseClient) -> None:
    settings = ReplaySettings(model="fake", time_scale=10.0, chat=True, ignore_eos=False)
    await replay(workload(1), client, settings)
    messages = fake.bodies[0]["messages"]
    assert isinstance(messages, list)
    assert [message["role"] for message in messages] == ["user"]
    assert len(messages[0]["content"]) == 2400
    assert "ignore_eos" not in fake.bodies[0]
    assert fake.heads[0].startswith("POST /v1/chat/completions ")


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ftp://x", "http://"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="url: expected"):
        Target.parse(url)


@pytest.mark.parametrize("url", ["http://h:81", "http://h:81/", "http://h:81/v1"])
def test_a_base_url_may_end_with_v1(url: str) -> None:
    target = Target.parse(url)
    assert (target.host, target.port, target.path) == ("h", 81, "")
