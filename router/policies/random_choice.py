"""Send the request anywhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from typing_extensions import override

from headrace.core.request import RouteRequest
from router.policy import Candidate, Policy, Terms


class RandomChoice(Policy):
    """Costs every endpoint the same, so that the tie-break decides."""

    unit = "none"
    holds = False
    near_ratio = 0.0

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        return [Terms(c.endpoint_id, 0.0) for c in candidates]
