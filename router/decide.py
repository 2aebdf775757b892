"""One routing decision: cost the candidates, rank them, say why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from headrace.core.errors import NoEndpoint
from headrace.core.ids import EndpointId
from headrace.core.request import RouteRequest
from router.policy import Candidate, Policy, Terms


@dataclass(frozen=True, slots=True)
class Decision:
    """The endpoint chosen and why.

    ``ranking`` holds every candidate's terms, best first, so ``ranking[0]`` is the choice and the
    rest are where to try next. ``candidate`` is what was believed of the chosen endpoint.
    """

    endpoint_id: EndpointId
    candidate: Candidate
    ranking: tuple[Terms, ...]
    unit: str


def decide(
    request: RouteRequest, candidates: Sequence[Candidate], policy: Policy, rng: Random
) -> Decision:
    """Choose an endpoint for ``request``.

    Args:
        request: The request to place.
        candidates: Endpoints that can serve it, in a stable order (by id).
        policy: How to cost them.
        rng: Breaks ties and serves policies that leave things to chance.

    Raises:
        NoEndpoint: if there is no candidate.

    """
    if not candidates:
        raise NoEndpoint(f"no endpoint is ready for model {request.model!r}")
    terms = policy.costs(request, candidates, rng)
    assert len(terms) == len(candidates)
    order = sorted(range(len(terms)), key=lambda i: (terms[i].cost, rng.random()))
    best = order[0]
    assert terms[best].cost >= 0.0  # also false for NaN
    return Decision(
        endpoint_id=candidates[best].endpoint_id,
        candidate=candidates[best],
        ranking=tuple(terms[i] for i in order),
        unit=policy.unit,
    )
