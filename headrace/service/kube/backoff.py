"""How long to wait after failures in a row. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double up to a limit, and differ between those who wait.

    Attributes:
        first_s: After one failure.
        most_s: Longest.

    """

    first_s: float
    most_s: float

    def wait_s(self, failures: int, rng: Random) -> float:
        """Return a wait after ``failures`` >= 1 in a row: between half of it and all of it."""
        full_s = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return full_s * rng.uniform(0.5, 1.0)
