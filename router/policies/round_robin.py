"""Send requests to the endpoints in turn. Remembers whose turn it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from typing_extensions import override

from headrace.core.ids import EndpointId
from headrace.core.request import RouteRequest
from router.policy import Candidate, Policy, Terms


class RoundRobin(Policy):
    """Costs the endpoint after the last one 0, the next 1, and so on in order of id."""

    unit = "turns"
    holds = False
    near_ratio = 0.0

    def __init__(self) -> None:
        self._last = EndpointId("")

    def memory(self) -> Mapping[str, object]:
        """Return whose turn it was last, so that a decision can be made again."""
        return {"last": self._last}

    def recall(self, memory: Mapping[str, object]) -> None:
        """Go on from where ``memory`` was taken."""
        self._last = EndpointId(str(memory["last"]))

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        ids = sorted(c.endpoint_id for c in candidates)
        start = next((i for i, e in enumerate(ids) if e > self._last), 0)
        turns = {e: (i - start) % len(ids) for i, e in enumerate(ids)}
        self._last = ids[start]
        return [Terms(c.endpoint_id, float(turns[c.endpoint_id])) for c in candidates]
