"""Sends the workload as chats. Touches sockets and the clock.

Open loop but for one thing: nobody sends back an answer that has not come yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic  # uvloop's own clock has whole milliseconds
from typing import Final, Protocol

from bench.routing_real.talks import Talks, chat_body
from headrace.core.errors import EngineError
from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.simulator.trace import TraceRequest
from headrace.twin.prompts import PromptMaker
from headrace.twin.replay import START_DELAY_S, Lateness, read_reply
from headrace.twin.report import percentile
from headrace.twin.sse import WHOLE_BYTES, Reply

MAX_INFLIGHT: Final = 2048


class Sender(Protocol):
    """Sends a body and waits for the end of the reply; see ``headrace.twin.sse.SseClient``."""

    async def post(
        self, path: str, body: bytes, request_id: str, *, keep_bytes: int = WHOLE_BYTES
    ) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of one pass of the workload.

    Attributes:
        records: In engine seconds; TTFT counts from the moment of sending.
        lateness: Of the client's own timers, in wall seconds.
        waited: Turns that were due before the answer they send back had come.
        failures: Why requests failed, the first few.

    """

    records: list[ServedRecord]
    lateness: Lateness
    waited: int
    failures: tuple[str, ...]


async def ask_all(
    workload: Sequence[TraceRequest],
    client: Sender,
    *,
    model: str,
    time_scale: float,
    seed: int,
) -> Asked:
    """Send every request at its time, in wall seconds ``time_scale`` times closer together."""
    run = _Run(client, model, time_scale, PromptMaker(seed))
    start_s = monotonic() + START_DELAY_S
    room = asyncio.Semaphore(MAX_INFLIGHT)
    async with asyncio.TaskGroup() as group:
        for index, request in enumerate(workload):
            text = run.prompts.text(request, index)
            due_s = start_s + request.arrival_s / time_scale
            await asyncio.sleep(max(0.0, due_s - monotonic()))
            await room.acquire()
            run.late_s.append(max(0.0, monotonic() - due_s))
            session = request.session or f"alone-{index}"
            task = group.create_task(run.one(request, index, text, run.turns.get(session)))
            run.turns[session] = task
            task.add_done_callback(lambda _: room.release())
    ordered = sorted(run.late_s) or [0.0]
    late = Lateness(percentile(ordered, 0.50), percentile(ordered, 0.99), ordered[-1])
    return Asked(run.records, late, run.waited, tuple(run.failures[:5]))


@dataclass(slots=True)
class _Run:
    """One pass under way; ``turns`` holds the latest turn of each session."""

    client: Sender
    model: str
    time_scale: float
    prompts: PromptMaker
    talks: Talks = field(default_factory=Talks)
    turns: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    records: list[ServedRecord] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    waited: int = 0

    async def one(
        self, request: TraceRequest, index: int, text: bytes, before: asyncio.Task[None] | None
    ) -> None:
        """Send one turn once ``before`` is over, and record how it ended."""
        if before is not None and not before.done():
            self.waited += 1
            await asyncio.wait((before,))
        messages = self.talks.messages(request, text)
        body = chat_body(self.model, messages, request.output_tokens)
        request_id = RequestId(f"real-{index}")
        usage, ttft_s, e2e_s = Usage(request.prompt_tokens, 0), 0.0, 0.0
        try:
            reply = await self.client.post(
                "/v1/chat/completions", body, request_id, keep_bytes=WHOLE_BYTES
            )
            outcome, usage, reason = read_reply(reply, usage)
            if reply.first_s is not None:
                ttft_s = (reply.first_s - reply.sent_s) * self.time_scale
                e2e_s = (reply.ended_s - reply.sent_s) * self.time_scale
            self.talks.answered(request, messages, reply.body)
        except (EngineError, TimeoutError) as error:
            outcome, reason = Outcome.ENGINE_FAILED, str(error) or "timed out"
        if outcome is not Outcome.SERVED:
            self.failures.append(reason)
        self.records.append(
            ServedRecord(request_id, request.arrival_s, ttft_s, e2e_s, usage, outcome)
        )
