"""Finds the workload that a command names: a trace file or a synthetic one. Reads files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace.core.errors import ConfigError
from headrace.simulator.synthetic import synthesize
from headrace.simulator.trace import TraceRequest, load_trace

SYNTHETIC_MINUTES: Final = 10.0
"""How long a synthetic workload is when nobody says."""


@dataclass(frozen=True, slots=True)
class WorkloadChoice:
    """A workload as it is asked for.

    Attributes:
        trace: A trace file; it wins over ``workload``.
        workload: Name of a synthetic workload.
        rate_rps: Mean requests per second of a synthetic workload.
        minutes: Keep arrivals of the first minutes only; None keeps all of a trace.
        limit: Keep the first requests only; None keeps all.
        seed: Of the synthetic workload, or of the jitter that a quantised trace needs.

    """

    trace: Path | None
    workload: str = "conversation"
    rate_rps: float = 4.0
    minutes: float | None = None
    limit: int | None = None
    seed: int = 1

    @property
    def name(self) -> str:
        """What a reader calls it."""
        if self.trace is not None:
            return self.trace.name
        return f"{self.workload} at {self.rate_rps:g} req/s"

    def load(self) -> list[TraceRequest]:
        """Return its requests by arrival, at least one.

        Raises:
            ConfigError: unknown name, unreadable or malformed file, or nothing left of it.

        """
        if self.trace is not None:
            requests = load_trace(self.trace, self.seed)
        else:
            span_s = 60.0 * (self.minutes or SYNTHETIC_MINUTES)
            requests = synthesize(self.workload, self.seed, self.rate_rps, span_s)
        if self.minutes is not None:
            requests = [one for one in requests if one.arrival_s < 60.0 * self.minutes]
        requests = requests[: self.limit]
        if not requests:
            raise ConfigError(f"{self.name}: no request arrives in so short a time")
        return requests

    def facts(self) -> dict[str, object]:
        """Return what a result file says of it."""
        return {
            "name": self.name,
            "minutes": self.minutes,
            "limit": self.limit,
            "seed": self.seed,
        }
