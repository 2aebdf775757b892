"""What a replica is called on Ray. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

PREFIX: Final = "headrace"
NAMESPACE: Final = "headrace"
"""Ray's namespace that supervisors are named in."""


@dataclass(frozen=True, slots=True, order=True)
class ReplicaName:
    """One incarnation of a replica: what its supervisor and placement group are called.

    Attributes:
        fleet: The fleet's name.
        index: Which replica of the fleet.
        revision: Of the settings that it runs.
        token: Tells incarnations apart.

    """

    fleet: str
    index: int
    revision: str
    token: str

    def __str__(self) -> str:
        return f"{PREFIX}:{self.fleet}:{self.index}:{self.revision}:{self.token}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the name that ``str`` wrote so, or None for a text that is none."""
        parts = text.split(":")
        if len(parts) != 5 or parts[0] != PREFIX or not parts[2].isdigit():
            return None
        return cls(parts[1], int(parts[2]), parts[3], parts[4])

    @property
    def short(self) -> str:
        """For people and metrics: unique within the cluster."""
        return f"{self.fleet}-{self.index}-{self.token}"
