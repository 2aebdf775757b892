from __future__ import annotations

import asyncio
from time import monotonic

import orjson

from bench.routing_real.client import Asked, ask_all
from headrace.core.errors import EngineUnreachable
from headrace.core.outcome import Outcome
from headrace.simulator.trace import TraceRequest
from headrace.twin.sse import WHOLE_BYTES, Reply

ANSWER = " abc abc"
BODY = (
    b'data: {"choices":[{"delta":{"content":" abc abc"}}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":16}}}\n\ndata: [DONE]\n\n'
)


class Answering:
    """Answers each request once ``release`` is set."""

    def __init__(self, body: bytes = BODY, status: int = 200) -> None:
        self.release = asyncio.Event()
        self.release.set()
        self.asked: list[list[dict[str, str]]] = []
        self._more = asyncio.Event()
        self._body = body
        self._status = status

    async def post(
        self, path: str, body: bytes, request_id: str, *, keep_bytes: int = WHOLE_BYTES
    ) -> Reply:
        assert path == "/v1/chat/completions"
        assert request_id.startswith("real-")
        assert keep_bytes == WHOLE_BYTES
        self.asked.append(orjson.loads(body)["messages"])
        self._more.set()
        await self.release.wait()
        sent_s = monotonic()
        return Reply(self._status, sent_s, sent_s + 0.5, sent_s + 2.5, self._body)

    async def have_been_asked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while len(self.asked) < times:
                self._more.clear()
                await self._more.wait()


class Absent:
    async def post(
        self, path: str, body: bytes, request_id: str, *, keep_bytes: int = WHOLE_BYTES
    ) -> Reply:
        raise EngineUnreachable("nobody there")


def two_turns() -> list[TraceRequest]:
    return [
        TraceRequest(0.0, 10, 2, session="talk-1"),
        TraceRequest(0.1, 20, 2, session="talk-1"),
    ]


def asking(workload: list[TraceRequest], client: Answering | Absent) -> asyncio.Task[Asked]:
    return asyncio.create_task(ask_all(workload, client, model="m", time_scale=10.0, seed=0))


async def test_a_turn_waits_for_the_answer_it_sends_back() -> None:
    client = Answering()
    client.release.clear()
    later = TraceRequest(0.2, 10, 2, session="talk-2")
    task = asking([*two_turns(), later], client)
    await client.have_been_asked(2)  # the first turn, and what is due after the second
    client.release.set()
    asked = await task
    assert asked.waited == 1
    assert len(client.asked) == 3
    assert [message["role"] for message in client.asked[2]] == ["user", "assistant", "user"]
    assert client.asked[2][1]["content"] == ANSWER


async def test_records_are_in_engine_seconds_and_have_the_usage_reported() -> None:
    asked = await asking(two_turns()[:1], Answering())
    (record,) = asked.records
    assert record.outcome is Outcome.SERVED
    assert record.usage.cached_tokens == 16
    assert abs(record.ttft_s - 5.0) < 1e-6
    assert abs(record.e2e_s - 25.0) < 1e-6


async def test_sessions_do_not_wait_for_each_other() -> None:
    client = Answering()
    client.release.clear()
    workload = [TraceRequest(0.0, 10, 2, session=f"talk-{i}") for i in range(3)]
    task = asking(workload, client)
    await client.have_been_asked(3)
    client.release.set()
    assert (await task).waited == 0


async def test_what_fails_is_recorded_with_its_reason() -> None:
    refused = await asking(two_turns()[:1], Answering(b"full", 503))
    assert refused.records[0].outcome is Outcome.REFUSED_FULL
    assert "503" in refused.failures[0]
    absent = await asking(two_turns()[:1], Absent())
    assert absent.records[0].outcome is Outcome.ENGINE_FAILED
    assert absent.failures == ("nobody there",)
