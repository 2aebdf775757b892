"""What a second policy would have done with the same requests. Pure.

The two see the same candidates, and break ties by the same chance, so that they differ only where
their costs do. What the second would have made of the fleet later cannot be seen here: its choices
are not carried out. For that there is ``headrace twin``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace.core.ids import EndpointId
from headrace.core.request import RouteRequest
from router.catalog import make_policy
from router.decide import Decision, decide, tie_rng
from router.policy import Candidate

KEPT: Final = 100
"""Disagreements kept, newest last."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One request that the second policy would have sent elsewhere.

    Attributes:
        request_id: The router's own id of the request.
        prompt_tokens: Its length.
        ours: Where it went.
        theirs: Where the second policy would have sent it.
        cost_difference: What that costs more, by the first policy and in its unit.
        ours_cached_tokens: Of its prompt, what was believed to be held where it went.
        theirs_cached_tokens: And where it would have gone.

    """

    request_id: str
    prompt_tokens: int
    ours: EndpointId
    theirs: EndpointId
    cost_difference: float
    ours_cached_tokens: float
    theirs_cached_tokens: float


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """All that was counted since the start.

    Attributes:
        policy: The second policy.
        unit: Of ``cost_difference``: the first policy's.
        agreed: Decisions on which both chose the same endpoint.
        disagreed: Those on which they did not.
        cost_difference: What the second policy's choices cost more, by the first, all together.
        prompt_tokens: Prompt tokens of all requests seen.
        ours_cached_tokens: Those believed to be cached where the requests went.
        theirs_cached_tokens: Those believed to be cached where they would have gone.
        latest: The last disagreements, newest first.

    """

    policy: str
    unit: str
    agreed: int
    disagreed: int
    cost_difference: float
    prompt_tokens: int
    ours_cached_tokens: float
    theirs_cached_tokens: float
    latest: tuple[Disagreement, ...]


class Shadow:
    """Asks a second policy about every decision and keeps count. One owner.

    Args:
        policy: One of ``router.catalog.POLICIES``.
        seed: The first policy's, so that ties fall alike.

    Raises:
        ConfigError: if no policy has that name.

    """

    def __init__(self, policy: str, seed: int) -> None:
        self.policy = policy
        self._seed = seed
        self._costing = make_policy(policy)
        self._latest: deque[Disagreement] = deque(maxlen=KEPT)
        self._unit = ""
        self.agreed = 0
        self.disagreed = 0
        self.cost_difference = 0.0
        self.prompt_tokens = 0
        self.ours_cached_tokens = 0.0
        self.theirs_cached_tokens = 0.0

    def observe(
        self,
        request: RouteRequest,
        candidates: Sequence[Candidate],
        decision: Decision,
        attempt: int = 0,
    ) -> None:
        """Decide again with the second policy; costs about what the decision itself did.

        Args:
            request: What was placed.
            candidates: As the first policy saw them.
            decision: What it decided on them.
            attempt: How many times it was sent before.

        """
        rng = tie_rng(self._seed, request.request_id, attempt)
        other = decide(request, candidates, self._costing, rng)
        ours, theirs = decision.candidate, other.candidate
        self._unit = decision.unit
        self.prompt_tokens += request.prompt_tokens
        self.ours_cached_tokens += ours.cached_tokens
        self.theirs_cached_tokens += theirs.cached_tokens
        if ours.endpoint_id == theirs.endpoint_id:
            self.agreed += 1
            return
        self.disagreed += 1
        costs = {(t.endpoint_id, t.prefill_id): t.cost for t in decision.ranking}
        difference = costs[theirs.endpoint_id, theirs.prefill_id] - decision.ranking[0].cost
        self.cost_difference += difference
        self._latest.append(
            Disagreement(
                request_id=request.request_id,
                prompt_tokens=request.prompt_tokens,
                ours=ours.endpoint_id,
                theirs=theirs.endpoint_id,
                cost_difference=difference,
                ours_cached_tokens=ours.cached_tokens,
                theirs_cached_tokens=theirs.cached_tokens,
            )
        )

    def report(self) -> ShadowReport:
        """Return all that was counted."""
        return ShadowReport(
            policy=self.policy,
            unit=self._unit,
            agreed=self.agreed,
            disagreed=self.disagreed,
            cost_difference=self.cost_difference,
            prompt_tokens=self.prompt_tokens,
            ours_cached_tokens=self.ours_cached_tokens,
            theirs_cached_tokens=self.theirs_cached_tokens,
            latest=tuple(reversed(self._latest)),
        )
