"""Drives an OpenAI endpoint with a workload, open loop. Touches sockets and the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic  # uvloop's own clock has whole milliseconds
from typing import Final

import orjson

from headrace.core.errors import ConfigError, EngineError
from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord, Usage
from headrace.simulator.trace import TraceRequest
from headrace.twin.conversations import Conversations
from headrace.twin.prompts import PromptMaker
from headrace.twin.report import percentile
from headrace.twin.sse import TAIL_BYTES, WHOLE_BYTES, Reply, SseClient

START_DELAY_S: Final = 0.1
"""Wall seconds between calling and the first arrival, so that the first body can be made."""


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How a workload is sent.

    Attributes:
        model: The name to ask for.
        time_scale: Engine seconds per wall second, >= the endpoint's own; 1 for real engines.
        seed: Varies the text that no hash id covers, and the request ids.
        chat: Send chat messages instead of text prompts.
        ignore_eos: Ask for exactly the trace's output length; vLLM's extension of the API.
        max_inflight: Requests open at once; arrivals beyond it wait, which shows as lateness.

    """

    model: str
    time_scale: float = 1.0
    seed: int = 0
    chat: bool = False
    ignore_eos: bool = True
    max_inflight: int = 4096


@dataclass(slots=True)
class Tally:
    """How far a replay is; the replay writes, whoever draws progress reads."""

    sent: int = 0
    ended: int = 0
    failed: int = 0
    last_failure: str = ""


@dataclass(frozen=True, slots=True)
class Lateness:
    """How far behind its schedule the client itself was, in wall seconds."""

    p50_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What came of a replay. Records are in engine seconds."""

    records: list[ServedRecord]
    lateness: Lateness
    wall_s: float


async def served_model(client: SseClient) -> str:
    """Return the first model that the endpoint lists.

    Raises:
        ConfigError: if it lists none or does not answer as an OpenAI endpoint does.

    """
    try:
        reply = await client.get("/v1/models")
        models = orjson.loads(reply.body)["data"] if reply.status == 200 else []
        name = models[0]["id"]
    except (EngineError, TimeoutError) as error:
        raise ConfigError(f"url: {error}") from None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        raise ConfigError("model: the endpoint lists none; name one with --model") from None
    return str(name)


async def replay(
    workload: Sequence[TraceRequest],
    client: SseClient,
    settings: ReplaySettings,
    *,
    tally: Tally | None = None,
    stop: asyncio.Event | None = None,
) -> ReplayResult:
    """Send every request when it is due, whether or not earlier ones have ended.

    Arrivals follow one absolute schedule, so a late one does not push back those that follow.
    Times count from the moment a request was sent; how late that was is reported apart.

    Args:
        workload: Sorted by arrival; the first arrives at once.
        client: Connected to the endpoint; stays open.
        settings: How to send.
        tally: Updated as requests are sent and end.
        stop: Once set, nothing more is sent and what is in flight ends as ``client_gone``.

    """
    run = _Run(client, settings, tally or Tally())
    if not workload:
        return ReplayResult([], Lateness(0.0, 0.0, 0.0), 0.0)
    started_s = monotonic()
    arrivals = asyncio.create_task(run.send_all(workload, started_s + START_DELAY_S))
    stopped = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait((arrivals, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not arrivals.done():
            arrivals.cancel()
            await asyncio.wait((arrivals,))
        else:
            arrivals.result()
    finally:
        arrivals.cancel()
        stopped.cancel()
    return ReplayResult(run.records, run.lateness(), monotonic() - started_s)


@dataclass(slots=True)
class _Run:
    """One replay under way."""

    client: SseClient
    settings: ReplaySettings
    tally: Tally
    records: list[ServedRecord] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    conversations: Conversations = field(default_factory=Conversations)

    async def send_all(self, workload: Sequence[TraceRequest], start_s: float) -> None:
        """Send each request at its time; returns once all have ended."""
        prompts = PromptMaker(self.settings.seed)
        room = asyncio.Semaphore(self.settings.max_inflight)
        first_s = workload[0].arrival_s
        async with asyncio.TaskGroup() as group:
            for index, request in enumerate(workload):
                text = prompts.text(request, index)
                due_s = start_s + (request.arrival_s - first_s) / self.settings.time_scale
                await asyncio.sleep(max(0.0, due_s - monotonic()))
                await room.acquire()
                self.late_s.append(max(0.0, monotonic() - due_s))
                self.tally.sent += 1
                task = group.create_task(self._one(request, index, text))
                task.add_done_callback(lambda _: room.release())

    async def _one(self, request: TraceRequest, index: int, text: bytes) -> None:
        """Send one request and record how it ended, whatever happens."""
        request_id = RequestId(f"replay-{self.settings.seed}-{index}")
        usage = Usage(request.prompt_tokens, 0)
        outcome, ttft_s, e2e_s = Outcome.CLIENT_GONE, 0.0, 0.0
        try:
            reply = await self._send(request, request_id, text)
            outcome, usage, reason = read_reply(reply, usage)
            if reply.first_s is not None:
                ttft_s = (reply.first_s - reply.sent_s) * self.settings.time_scale
                e2e_s = (reply.ended_s - reply.sent_s) * self.settings.time_scale
        except (EngineError, TimeoutError) as error:
            outcome, reason = Outcome.ENGINE_FAILED, str(error) or "timed out"
        finally:
            self.records.append(
                ServedRecord(request_id, request.arrival_s, ttft_s, e2e_s, usage, outcome)
            )
            self.tally.ended += 1
        if outcome is not Outcome.SERVED:
            self.tally.failed += 1
            self.tally.last_failure = reason

    async def _send(self, request: TraceRequest, request_id: RequestId, text: bytes) -> Reply:
        prompt = self.conversations.prompt(request, text)
        body = request_body(request, prompt, self.settings)
        path = "/v1/chat/completions" if self.settings.chat else "/v1/completions"
        wanted = self.conversations.wanted(request)
        keep_bytes = WHOLE_BYTES if wanted else TAIL_BYTES
        reply = await self.client.post(path, body, request_id, keep_bytes=keep_bytes)
        if wanted:
            self.conversations.answered(request, prompt, reply.body)
        return reply

    def lateness(self) -> Lateness:
        """Reduce how late each request was sent."""
        ordered = sorted(self.late_s) or [0.0]
        return Lateness(percentile(ordered, 0.50), percentile(ordered, 0.99), ordered[-1])


def request_body(request: TraceRequest, prompt: bytes, settings: ReplaySettings) -> bytes:
    """Return the JSON body; ``prompt`` must be ASCII that needs no escaping.

    Spliced rather than encoded: prompts are tens of kilobytes and this runs on the schedule.
    """
    text = (
        b'"messages":[{"role":"user","content":"%b"}]' if settings.chat else b'"prompt":"%b"'
    ) % prompt
    options: dict[str, object] = {
        "max_tokens": request.output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if settings.ignore_eos:
        options["ignore_eos"] = True
    model = orjson.dumps(settings.model)
    return b'{"model":%b,%b,%b' % (model, text, orjson.dumps(options)[1:])


def read_reply(reply: Reply, expected: Usage) -> tuple[Outcome, Usage, str]:
    """Judge a reply: how the request ended, the usage reported, and why it failed if it did.

    Args:
        reply: As received.
        expected: Used where the reply reports no usage.

    """
    if reply.status != 200:
        return _refusal(reply.status), expected, f"HTTP {reply.status}: {reply.body[:200]!r}"
    usage = expected
    finished = False
    for line in reply.body.split(b"\n"):
        if line.startswith(b"data: [DONE]"):
            finished = True
        elif line.startswith(b"data: {") and (b'"usage"' in line or b'"error"' in line):
            try:
                event = orjson.loads(line[6:])
            except orjson.JSONDecodeError:
                continue
            if event.get("error"):
                return Outcome.ENGINE_FAILED, usage, f"error in the stream: {event['error']}"
            if isinstance(event.get("usage"), dict):
                usage = _usage(event["usage"])
    if not finished:
        return Outcome.ENGINE_FAILED, usage, "the stream ended without [DONE]"
    return Outcome.SERVED, usage, ""


def _usage(reported: dict[str, object]) -> Usage:
    details = reported.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(
        prompt_tokens=_count(reported.get("prompt_tokens")),
        output_tokens=_count(reported.get("completion_tokens")),
        cached_tokens=_count(cached),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _refusal(status: int) -> Outcome:
    if status in {401, 403}:
        return Outcome.REFUSED_AUTH
    if status in {429, 503}:
        return Outcome.REFUSED_FULL
    return Outcome.ENGINE_FAILED if status >= 500 else Outcome.REFUSED_INVALID
