"""Requests of ours that another gateway replica's came before, unseen. Pure.

Replicas that believe the same choose the same endpoint, and while news of a choice are under way
the others do not know of it. When they come, a request of ours that was sent there later has lost a
race: it waits for work that its choice did not count. It has hardly begun, so it can be called back
and placed again, if it costs less elsewhere now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.ledger import Ledger, Queued
from router.policy import Candidate, Policy

LEAST_GAIN_MS: Final = 5.0
"""What another endpoint must save at least: calling back takes about a millisecond of the gateway,
later a new connection, and what the engine may have computed already."""

LEAST_GAIN_RATIO: Final = 0.01
"""Likewise, as a share of the cost where it is: no estimate is more exact."""

LOOKED_AT: Final = 16
"""Most requests that are costed again at once, the latest sent; each costs about what a decision
does, and a snapshot may bring news of hundreds."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A request of ours as it was sent: where to, what was cached there for it, and when."""

    request: RouteRequest
    endpoint_id: EndpointId
    cached_tokens: float
    sent_s: float  # engine seconds


class Races:
    """Our requests that wait for a first token, and those of them that lost a race. One owner."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._running: dict[RequestId, Runner] = {}  # in the order sent
        self._lost: dict[RequestId, Runner] = {}

    def sent(self, request: RouteRequest, candidate: Candidate, now_s: float) -> None:
        """Note a request of ours that is being sent to one endpoint; ``now_s`` is engine time."""
        runner = Runner(request, candidate.endpoint_id, candidate.cached_tokens, now_s)
        self._running[request.request_id] = runner

    def over(self, request_id: RequestId) -> None:
        """Forget a request: it has begun, or ended."""
        if self._running.pop(request_id, None) is not None:
            self._lost.pop(request_id, None)

    def came(self, endpoint_id: EndpointId, dispatched_s: float) -> None:
        """Learn where another replica sent a request, at ``dispatched_s`` in engine time."""
        for runner in reversed(self._running.values()):
            if runner.sent_s <= dispatched_s:
                break
            if runner.endpoint_id == endpoint_id:
                self._lost[runner.request.request_id] = runner

    def take(self) -> list[tuple[Runner, Queued]]:
        """Return losers that are still queued, and what they take there; forget all of them."""
        if not self._lost:
            return []
        losers = sorted(self._lost.values(), key=lambda runner: runner.sent_s)[-LOOKED_AT:]
        self._lost.clear()
        queued = [(one, self._ledger.queued(one.request.request_id)) for one in losers]
        return [(runner, own) for runner, own in queued if own is not None]


def better_elsewhere(
    runner: Runner, own: Queued, candidates: Sequence[Candidate], policy: Policy
) -> bool:
    """Return whether a request that is queued at an endpoint would cost less at another.

    Args:
        runner: The request.
        own: What it takes of its endpoint.
        candidates: As known now. That of its endpoint is changed to what it would be without it;
            if there is none, as that endpoint takes no more requests, this one stays.
        policy: How to cost them.

    """
    here = next((c for c in candidates if c.endpoint_id == runner.endpoint_id), None)
    if here is None:
        return False
    here.queued_ms = max(0.0, here.queued_ms - own.work_ms)
    here.inflight -= 1
    here.resident_tokens -= own.kv_tokens
    here.cached_tokens = min(here.cached_tokens, runner.cached_tokens)  # its own come there now
    costs = [terms.cost for terms in policy.costs(runner.request, candidates, Random(0))]
    stay = costs[candidates.index(here)]
    return min(costs) + max(LEAST_GAIN_MS, LEAST_GAIN_RATIO * stay) < stay
