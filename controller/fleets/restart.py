"""When to start a crashed engine again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often, and how soon.

    Attributes:
        limit: Crashes inside ``window_s`` after which an engine is left alone.
        limit_before_ready: The same while it has never been ready: it is likely that it cannot be.
        first_s: Wait after the first crash; each further one doubles it.
        most_s: Longest wait.
        window_s: How long a crash counts.

    """

    limit: int = 5
    limit_before_ready: int = 2
    first_s: float = 0.5
    most_s: float = 30.0
    window_s: float = 600.0

    def delay_s(
        self, crashes_at_s: Sequence[float], now_s: float, *, ever_ready: bool
    ) -> float | None:
        """Return how long to wait before the next start, or None to give up.

        Args:
            crashes_at_s: When each crash so far happened, the newest included.
            now_s: Now, on the same clock.
            ever_ready: Whether the engine has ever served.

        """
        recent = sum(1 for at_s in crashes_at_s if now_s - at_s < self.window_s)
        if recent >= (self.limit if ever_ready else self.limit_before_ready):
            return None
        return min(self.most_s, self.first_s * 2.0 ** min(max(0, recent - 1), 32))
