"""The routes that tell why requests went where they went. FastAPI describes and validates them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import FastAPI, HTTPException, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from gateway.decisions import Decisions
from gateway.keys import Keys
from headrace.core.clock import Clock
from headrace.core.outcome import Outcome
from headrace.service.telemetry import Telemetry
from router.record import RecordedDecision
from router.shadow import Shadow, ShadowReport

MOST_LISTED: Final = 1_000

_ANSWER = ConfigDict(frozen=True)


class Explained(BaseModel):
    """Every decision that is kept on requests of one id."""

    model_config = _ANSWER

    object: Literal["headrace.decisions"] = "headrace.decisions"
    request_id: str = Field(description="As it was in X-Request-Id.")
    attempts: list[RecordedDecision] = Field(
        description="Oldest first. More than one after a retry or a call back, or when the id was "
        "used again; `headrace explain --file` reads this answer."
    )


class DecisionSummary(BaseModel):
    """The last decision on one request, in short."""

    model_config = _ANSWER

    request_id: str
    age_s: float = Field(description="Seconds since it was made.")
    model: str
    endpoint: str
    prefill_endpoint: str | None = Field(
        description="Where its prompt was to be computed, if elsewhere."
    )
    attempt: int = Field(description="How many times the request had been sent before.")
    candidates: int = Field(description="Endpoints that were costed.")
    cost: float = Field(description="What the chosen endpoint would cost, in `unit`.")
    unit: str
    prompt_tokens: int = Field(description="As the router counted or guessed them.")
    cached_tokens: float = Field(description="Of them, those believed to be cached there.")
    outcome: Outcome | None = Field(description="How the request ended; null while in flight.")
    ttft_s: float | None = Field(description="Arrival to first token, once it has ended.")
    engine_cached_tokens: int | None = Field(description="As the engine reported them.")


class DecisionList(BaseModel):
    """The newest decisions."""

    model_config = _ANSWER

    object: Literal["list"] = "list"
    data: list[DecisionSummary] = Field(description="Newest first.")
    kept: int = Field(description="Requests whose decisions are kept.")
    kept_bytes: int = Field(description="What they take in memory.")


class ShadowAnswer(BaseModel):
    """What a second policy would have done."""

    model_config = _ANSWER

    object: Literal["headrace.shadow"] = "headrace.shadow"
    shadow: ShadowReport


def add_explaining(
    app: FastAPI, keys: Keys, decisions: Decisions, shadow: Shadow | None, clock: Clock
) -> None:
    """Add the routes to ``app``; they take the keys that the API takes."""

    def authorise(request: Request) -> None:
        header = request.headers.get("authorization")
        keys.tenant(None if header is None else header.encode("latin-1"))

    @app.get("/headrace/v1/decisions", summary="The newest routing decisions")
    async def newest(
        request: Request, limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 50
    ) -> DecisionList:
        authorise(request)
        now_s = clock.now_s()
        data = [_summary(record, now_s) for record in decisions.newest(limit)]
        return DecisionList(data=data, kept=len(decisions), kept_bytes=decisions.size_bytes)

    @app.get("/headrace/v1/decisions/{request_id}", summary="Why one request went where it went")
    async def of(request: Request, request_id: Annotated[str, Path(max_length=128)]) -> Explained:
        authorise(request)
        found = decisions.of(request_id)
        if not found:
            raise HTTPException(404, "no decision is kept on a request of that id")
        return Explained(request_id=request_id, attempts=found)

    @app.get("/headrace/v1/shadow", summary="What a second policy would have done")
    async def shadowed(request: Request) -> ShadowAnswer:
        authorise(request)
        if shadow is None:
            raise HTTPException(404, "no shadow policy is set: gateway.routing.shadow")
        return ShadowAnswer(shadow=shadow.report())


def _summary(record: RecordedDecision, now_s: float) -> DecisionSummary:
    best = record.ranking[0]
    happened = record.happened
    usage = None if happened is None else happened.usage
    return DecisionSummary(
        request_id=record.request_id,
        age_s=now_s - record.now_s,
        model=record.model,
        endpoint=record.endpoint_id,
        prefill_endpoint=record.prefill_id,
        attempt=record.attempt,
        candidates=len(record.candidates),
        cost=best.cost,
        unit=record.unit,
        prompt_tokens=record.request.facts["prompt_tokens"],
        cached_tokens=record.candidate.cached_tokens,
        outcome=None if happened is None else happened.outcome,
        ttft_s=None if happened is None else happened.ttft_s,
        engine_cached_tokens=None if usage is None else usage.cached_tokens,
    )


class ShadowMetrics:
    """Brings the metrics of a shadow policy up to date."""

    def __init__(self, shadow: Shadow, telemetry: Telemetry) -> None:
        self._shadow = shadow
        decisions = telemetry.counter("headrace_shadow_decisions_total")
        self._agreed = decisions.labels("agreed")
        self._disagreed = decisions.labels("disagreed")
        self._difference = telemetry.gauge("headrace_shadow_cost_difference").labels()
        cached = telemetry.counter("headrace_shadow_cached_tokens_total")
        self._ours, self._theirs = cached.labels("ours"), cached.labels("shadow")
        self._prompt = telemetry.counter("headrace_shadow_prompt_tokens_total").labels()

    def update(self) -> None:
        """Take over what was counted since."""
        shadow = self._shadow
        self._agreed.value = float(shadow.agreed)
        self._disagreed.value = float(shadow.disagreed)
        self._difference.set(shadow.cost_difference)
        self._ours.value = shadow.ours_cached_tokens
        self._theirs.value = shadow.theirs_cached_tokens
        self._prompt.value = float(shadow.prompt_tokens)
