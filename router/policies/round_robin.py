"""Send requests to the endpoints in turn. Remembers whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from typing_extensions import override

from headrace.core.ids import EndpointId
from headrace.core.request import RouteRequest
from router.policy import Candidate, Policy, Terms


class RoundRobin(Policy):
    """Costs the endpoint after the last one 0, the next 1, and so on in order of id."""

    unit = "turns"

    def __init__(self) -> None:
        self._last = EndpointId("")

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        ids = sorted(c.endpoint_id for c in candidates)
        start = next((i for i, e in enumerate(ids) if e > self._last), 0)
        turns = {e: (i - start) % len(ids) for i, e in enumerate(ids)}
        self._last = ids[start]
        return [Terms(c.endpoint_id, float(turns[c.endpoint_id])) for c in candidates]
