"""What adapter calls look like on the wire of each engine program. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Call:
    """One POST to an engine: ``path`` starts with a slash, ``body`` goes as JSON."""

    path: str
    body: Mapping[str, object] = field(default_factory=dict)


class AdapterDialect(Protocol):
    """How one engine program is told of adapters, and how its refusals read."""

    def load(self, name: str, path: str, *, replaced: bool) -> tuple[Call, ...]:
        """Return the calls that load an adapter, in order.

        Args:
            name: What requests will call it.
            path: A folder that the engine can read.
            replaced: Whether another version of it is loaded under the same name.

        """
        ...

    def unload(self, name: str) -> Call:
        """Return the call that unloads an adapter."""
        ...

    def refusal(self, status: int, body: bytes) -> str | None:
        """Return why a call failed, in the engine's words; None when it did what was asked."""
        ...
