"""What is known of a request once it has ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.core.ids import EndpointId, RequestId
from headrace.core.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the engine reported them; ``cached_tokens`` <= ``prompt_tokens``."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ServedRecord:
    """One request from arrival to outcome, in seconds of the clock that drove it.

    ``ttft_s`` and ``e2e_s`` count from ``arrival_s``; both are 0 when no token came.
    """

    request_id: RequestId
    arrival_s: float
    ttft_s: float
    e2e_s: float
    usage: Usage
    outcome: Outcome
    endpoint_id: EndpointId | None = None

    @property
    def served(self) -> bool:
        """Whether the caller got the whole reply."""
        return self.outcome is Outcome.SERVED

    @property
    def tpot_s(self) -> float | None:
        """Seconds per output token after the first; None with fewer than two tokens."""
        if self.usage.output_tokens < 2:
            return None
        return (self.e2e_s - self.ttft_s) / (self.usage.output_tokens - 1)
