"""How long to wait after failures in a row. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double up to a limit.

    Attributes:
        first_s: After one failure.
        most_s: Longest.

    """

    first_s: float
    most_s: float

    def full_s(self, failures: int) -> float:
        """Return the longest wait after ``failures`` >= 1 in a row."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60))

    def wait_s(self, failures: int, rng: Random) -> float:
        """Return a wait between half of that and all of it, for many who failed at one moment."""
        return self.full_s(failures) * rng.uniform(0.5, 1.0)
