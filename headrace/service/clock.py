"""The real clock. Touches the operating system's monotonic clock."""

from __future__ import annotations

import asyncio
import time


class RealClock:
    """Monotonic seconds at the resolution of the machine.

    Not ``loop.time()``: uvloop rounds that to the millisecond at which the loop last woke.
    """

    def now_s(self) -> float:
        """Return monotonic seconds; the origin is arbitrary."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait ``delay_s`` seconds."""
        await asyncio.sleep(delay_s)
