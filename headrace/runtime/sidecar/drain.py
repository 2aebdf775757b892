"""Whether an engine that is to stop has become quiet. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Why = Literal["idle", "engine_gone", "limit"]


@dataclass(frozen=True, slots=True)
class Drain:
    """One wait for quiet, in seconds of the caller's clock.

    Attributes:
        began_s: When it began.
        settle_s: How long the engine must have been idle.
        limit_s: Longest wait.
        idle_since_s: When it was first seen idle without a break since; None while it is busy, or
            has not been seen.
        running: Sequences in its batch when last seen.
        waiting: Sequences in its queue likewise.
        looks: Times that it was seen.

    """

    began_s: float
    settle_s: float
    limit_s: float
    idle_since_s: float | None = None
    running: int | None = None
    waiting: int | None = None
    looks: int = 0

    def saw(self, running: int | None, waiting: int | None, at_s: float) -> Drain:
        """Return this after a look; an engine that does not tell its load is never idle."""
        idle = running == 0 and waiting == 0
        since_s = (at_s if self.idle_since_s is None else self.idle_since_s) if idle else None
        return replace(
            self, idle_since_s=since_s, running=running, waiting=waiting, looks=self.looks + 1
        )

    def over(self, now_s: float) -> Why | None:
        """Return why the wait is over at ``now_s``; None if it is not."""
        if self.idle_since_s is not None and now_s - self.idle_since_s >= self.settle_s:
            return "idle"
        return "limit" if now_s - self.began_s >= self.limit_s else None
