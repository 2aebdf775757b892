"""Faults on demand: what can be asked for, and what is active. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

import msgspec

from headrace.simulator.http.errors import ApiError, bad, internal

Kind = Literal[
    "crash",
    "hang",
    "slow",
    "error",
    "cut_stream",
    "drop_events",
    "reorder_events",
    "restart",
    "clear",
]
Cut = Literal["reset", "done"]


class FaultRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /headrace/fault``.

    Attributes:
        kind: What goes wrong; ``clear`` ends every fault and ``restart`` brings a crashed engine
            back, with an empty cache.
        engine: Index of the engine meant; None is the one asked.
        for_s: The fault ends by itself after this many wall seconds; None keeps it.
        restart_after_s: After a crash, wall seconds until the engine is back; None waits for
            ``restart``, sent to another engine of the process.
        factor: For ``slow``: every step takes this many times as long.
        rate: Share of requests (``error``, ``cut_stream``) or event batches that suffer.
        status: For ``error``: what generating routes answer.
        after_tokens: For ``cut_stream``: tokens that still arrive.
        how: For ``cut_stream``: ``reset`` breaks the connection; ``done`` ends the stream with
            ``[DONE]`` and no finish reason, as vLLM 0.32 does while it shuts down.

    """

    kind: Kind
    engine: int | None = None
    for_s: float | None = None
    restart_after_s: float | None = None
    factor: float = 10.0
    rate: float = 1.0
    status: int = 500
    after_tokens: int = 1
    how: Cut = "reset"

    def checked(self, engines: int) -> FaultRequest:
        """Return it, or refuse values that make no sense.

        Raises:
            ApiError: 400, naming the field.

        """
        problem = self._problem(engines)
        if problem is not None:
            raise bad(f"{problem[0]}: {problem[1]}", problem[0])
        return self

    def _problem(self, engines: int) -> tuple[str, str] | None:
        checks = (
            ("engine", self.engine is None or 0 <= self.engine < engines, f"there are {engines}"),
            ("for_s", _in(self.for_s, 0.0, 86_400.0), "must be in [0, 86400]"),
            ("restart_after_s", _in(self.restart_after_s, 0.0, 86_400.0), "must be in [0, 86400]"),
            ("factor", _in(self.factor, 0.001, 100_000.0), "must be in [0.001, 100000]"),
            ("rate", _in(self.rate, 0.0, 1.0), "must be in [0, 1]"),
            ("status", self.status in (500, 502, 503, 504), "must be 500, 502, 503 or 504"),
            ("after_tokens", self.after_tokens >= 0, "must not be negative"),
        )
        return next(((name, why) for name, good, why in checks if not good), None)


def _in(value: float | None, low: float, high: float) -> bool:
    return value is None or low <= value <= high


@dataclass(slots=True)
class Faults:
    """What is wrong with one engine now; the host reads it, the admin route writes it."""

    hung: bool = False
    slow_factor: float = 1.0
    error_rate: float = 0.0
    error_status: int = 500
    cut_rate: float = 0.0
    cut_after_tokens: int = 0
    cut_how: Cut = "reset"
    drop_events_rate: float = 0.0
    reorder_events_rate: float = 0.0

    def apply(self, fault: FaultRequest) -> None:
        """Make ``fault`` active; ``crash`` and ``restart`` are the fleet's to carry out."""
        match fault.kind:
            case "hang":
                self.hung = True
            case "slow":
                self.slow_factor = fault.factor
            case "error":
                self.error_rate, self.error_status = fault.rate, fault.status
            case "cut_stream":
                self.cut_rate, self.cut_how = fault.rate, fault.how
                self.cut_after_tokens = fault.after_tokens
            case "drop_events":
                self.drop_events_rate = fault.rate
            case "reorder_events":
                self.reorder_events_rate = fault.rate
            case "clear":
                self.clear()
            case "crash" | "restart":
                pass

    def end(self, kind: Kind) -> None:
        """End the faults of one kind."""
        match kind:
            case "hang":
                self.hung = False
            case "slow":
                self.slow_factor = 1.0
            case "error":
                self.error_rate = 0.0
            case "cut_stream":
                self.cut_rate = 0.0
            case "drop_events":
                self.drop_events_rate = 0.0
            case "reorder_events":
                self.reorder_events_rate = 0.0
            case "crash" | "restart" | "clear":
                pass

    def clear(self) -> None:
        """End every fault."""
        self.hung = False
        self.slow_factor = 1.0
        self.error_rate = self.cut_rate = 0.0
        self.drop_events_rate = self.reorder_events_rate = 0.0

    def refuse(self, rng: Random) -> ApiError | None:
        """Return the error that the next request must get, or None."""
        if self.error_rate and rng.random() < self.error_rate:
            return internal(self.error_status)
        return None

    def cut_at(self, rng: Random) -> int | None:
        """Return after how many tokens the next stream breaks, or None."""
        if self.cut_rate and rng.random() < self.cut_rate:
            return self.cut_after_tokens
        return None
