"""Send the request where the fewest of ours are in flight. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from typing_extensions import override

from headrace.core.request import RouteRequest
from router.policy import Candidate, Policy, Terms


class LeastRequests(Policy):
    """Costs an endpoint its requests in flight."""

    unit = "requests"
    holds = False
    near_ratio = 0.0

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        return [Terms(c.endpoint_id, float(c.inflight)) for c in candidates]
