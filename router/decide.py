"""One routing decision: cost the candidates, rank them, say why. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from headrace.core.errors import NoEndpoint
from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.memory import NO_MEMORY
from router.policy import TIME_UNIT, Candidate, Policy, Terms


@dataclass(frozen=True, slots=True)
class Decision:
    """The endpoint chosen and why.

    ``ranking`` holds every candidate's terms, best first, so ``ranking[0]`` is the choice and the
    rest are where to try next. ``candidate`` is what was believed of the chosen endpoint,
    ``candidates`` of all, in the order given. ``memory`` is what the policy remembered before.
    """

    endpoint_id: EndpointId
    candidate: Candidate
    ranking: tuple[Terms, ...]
    unit: str
    candidates: Sequence[Candidate] = ()
    memory: Mapping[str, object] = field(default_factory=lambda: NO_MEMORY)


def tie_rng(seed: int, request_id: RequestId, attempt: int) -> Random:
    """Return the chance that one decision may use; the same for the same decision, anywhere."""
    return Random(f"{seed}/{request_id}/{attempt}")


def decide(
    request: RouteRequest,
    candidates: Sequence[Candidate],
    policy: Policy,
    rng: Random,
    memory: Mapping[str, object] = NO_MEMORY,
) -> Decision:
    """Choose an endpoint for ``request``: the one of least cost.

    Of several that cost the same, any; for a policy with a ``near_ratio`` about the same is enough,
    and one that served the request's session last is preferred. A pair that splits the request is
    taken only where it costs less than every single endpoint, and only by policies that cost time.

    Args:
        request: The request to place.
        candidates: Endpoints that can serve it, in a stable order (by id).
        policy: How to cost them.
        rng: Breaks ties and serves policies that leave things to chance.
        memory: What the policy remembers now, for the record.

    Raises:
        NoEndpoint: if there is no candidate.

    """
    if policy.unit != TIME_UNIT and candidates and candidates[-1].prefill_id is not None:
        candidates = [c for c in candidates if c.prefill_id is None]
    if not candidates:
        asked = ", ".join(f"{key}={value}" for key, value in request.labels)
        labelled = f" with labels {asked}" if asked else ""
        raise NoEndpoint(f"no endpoint{labelled} is ready for model {request.model!r}")
    terms = policy.costs(request, candidates, rng)
    assert len(terms) == len(candidates)
    order = sorted(range(len(terms)), key=lambda i: terms[i].cost)
    least = terms[order[0]].cost
    assert least >= 0.0  # also false for NaN
    near = _near(order, terms, least * (1.0 + policy.near_ratio))
    if len(near) > 1:
        sticky = policy.near_ratio > 0.0
        known = [i for i in near if sticky and candidates[i].session_here]
        best = known[0] if known else near[int(rng.random() * len(near))]
        order.remove(best)
        order.insert(0, best)
    best = order[0]
    return Decision(
        endpoint_id=candidates[best].endpoint_id,
        candidate=candidates[best],
        ranking=tuple(terms[i] for i in order),
        unit=policy.unit,
        candidates=candidates,
        memory=memory,
    )


def _near(order: Sequence[int], terms: Sequence[Terms], most: float) -> list[int]:
    """Return those that cost no more than ``most``; whether to split is not left to chance.

    ``order`` is by cost. Pairs end where one endpoint alone costs as little.
    """
    split = terms[order[0]].prefill_id is not None
    near: list[int] = []
    for i in order:
        alone = terms[i].prefill_id is None
        if terms[i].cost > most or (split and alone):
            break
        if split or alone:
            near.append(i)
    return near
