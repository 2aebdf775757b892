"""What is kept of each request: its metrics and its one line of log. Writes to the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from headrace.core.ids import EndpointId, ModelName, TenantId
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from headrace.service.metrics import MAX_SERIES, Counter, Histogram
from headrace.service.telemetry import Telemetry

UNKNOWN_MODEL: Final = ModelName("unknown")
"""The label of requests whose model nobody serves; clients must not be able to add labels."""


class LineWriter(Protocol):
    """Writes one line of log with the fields given."""

    def write(self, event: str, fields: dict[str, object]) -> None:
        """Write it."""
        ...


@dataclass(slots=True)
class Account:
    """What is known of one request so far; ``model`` is ``UNKNOWN_MODEL`` until routed.

    All times are monotonic seconds; 0 means that it has not come to that.
    """

    request_id: str
    arrival_s: float
    kind: str
    tenant: TenantId | None = None
    model: ModelName = UNKNOWN_MODEL
    asked_model: str | None = None
    stream: bool = False
    endpoint: EndpointId | None = None
    attempts: int = 0
    dispatched_s: float = 0.0
    first_s: float = 0.0
    predicted_ttft_s: float | None = None
    usage: Usage | None = None
    status: int = 0
    outcome: Outcome | None = None
    reason: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """Seconds from arrival to the first token; None when none came."""
        return self.first_s - self.arrival_s if self.first_s else None


@dataclass(frozen=True, slots=True)
class _Of:
    """The series of one model, bound once."""

    ttft: Histogram
    tpot: Histogram
    e2e: Histogram
    gen_ai_ttft: Histogram
    gen_ai_tpot: Histogram
    prediction: Histogram
    prompt: Counter
    cached: Counter
    output: Counter
    outcomes: dict[Outcome, Counter] = field(default_factory=dict)


class Accounts:
    """Closes accounts. One owner.

    ``closed`` counts them: every request that came in is closed exactly once (INV-1).
    """

    def __init__(self, telemetry: Telemetry, line: LineWriter | None) -> None:
        self._telemetry = telemetry
        self._requests = telemetry.counter("headrace_requests_total")
        self._line = line
        self._models: dict[ModelName, _Of] = {}
        self.closed = 0

    def close(self, account: Account, outcome: Outcome, now_s: float) -> None:
        """Enter the end of a request: its outcome, its durations, its tokens, its line."""
        assert account.outcome is None, "a request has one outcome"
        account.outcome = outcome
        self.closed += 1
        of = self._of(account.model)
        counter = of.outcomes.get(outcome)
        if counter is None:
            counter = of.outcomes[outcome] = self._requests.labels(account.model, outcome.value)
        counter.value += 1.0
        e2e_s = now_s - account.arrival_s
        ttft_s = account.ttft_s
        tpot_s = _count_tokens(of, account.usage, e2e_s, ttft_s)
        if outcome is Outcome.SERVED:
            _observe(of, ttft_s, tpot_s, e2e_s)
        if account.first_s and account.predicted_ttft_s is not None:
            took_s = account.first_s - account.dispatched_s
            of.prediction.observe(took_s - account.predicted_ttft_s)
        if self._line is not None:
            self._line.write("request", _fields(account, ttft_s, tpot_s, e2e_s))

    def _of(self, model: ModelName) -> _Of:
        of = self._models.get(model)
        if of is None:
            if len(self._models) >= MAX_SERIES:  # adapters come and go; the series are kept anyway
                self._models.clear()
            histogram, counter = self._telemetry.histogram, self._telemetry.counter
            of = self._models[model] = _Of(
                ttft=histogram("headrace_ttft_seconds").labels(model),
                tpot=histogram("headrace_tpot_seconds").labels(model),
                e2e=histogram("headrace_e2e_seconds").labels(model),
                gen_ai_ttft=histogram("gen_ai_server_time_to_first_token_seconds").labels(model),
                gen_ai_tpot=histogram("gen_ai_server_time_per_output_token_seconds").labels(model),
                prediction=histogram("headrace_router_predicted_ttft_error_seconds").labels(model),
                prompt=counter("headrace_prompt_tokens_total").labels(model),
                cached=counter("headrace_cached_tokens_total").labels(model),
                output=counter("headrace_output_tokens_total").labels(model),
            )
        return of


def _count_tokens(of: _Of, usage: Usage | None, e2e_s: float, ttft_s: float | None) -> float | None:
    """Count the tokens reported and return the time per output token, where there is one."""
    if usage is None:
        return None
    of.prompt.value += usage.prompt_tokens
    of.cached.value += usage.cached_tokens
    of.output.value += usage.output_tokens
    if ttft_s is None or usage.output_tokens < 2:
        return None
    return (e2e_s - ttft_s) / (usage.output_tokens - 1)


def _observe(of: _Of, ttft_s: float | None, tpot_s: float | None, e2e_s: float) -> None:
    """Enter the durations of a request that was served."""
    of.e2e.observe(e2e_s)
    if ttft_s is not None:
        of.ttft.observe(ttft_s)
        of.gen_ai_ttft.observe(ttft_s)
    if tpot_s is not None:
        of.tpot.observe(tpot_s)
        of.gen_ai_tpot.observe(tpot_s)


def _fields(
    account: Account, ttft_s: float | None, tpot_s: float | None, e2e_s: float
) -> dict[str, object]:
    usage = account.usage
    queue_s = account.dispatched_s - account.arrival_s if account.dispatched_s else None
    return {
        "request_id": account.request_id,
        "kind": account.kind,
        "tenant": account.tenant,
        "model": account.asked_model,
        "stream": account.stream,
        "endpoint": account.endpoint,
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "cached_tokens": None if usage is None else usage.cached_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
        "queue_s": _rounded(queue_s),
        "ttft_s": _rounded(ttft_s),
        "tpot_s": _rounded(tpot_s),
        "e2e_s": _rounded(e2e_s),
        "outcome": account.outcome,
        "reason": account.reason,
        "attempts": account.attempts,
        "status": account.status,
    }


def _rounded(duration_s: float | None) -> float | None:
    """Round to the microsecond."""
    return None if duration_s is None else round(duration_s, 6)
