"""The only way code here learns the time. Pure: the real clock is in ``headrace.service``."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds and waiting; virtual in simulations."""

    def now_s(self) -> float:
        """Return monotonic seconds; the origin is arbitrary."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds of this clock's time."""
        ...
