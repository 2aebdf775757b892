"""Requests that wait in the gateway because every endpoint is full. Pure.

An engine serves in the order of arrival and cannot give a request back. Held here, a request goes
to whichever endpoint is free first, and the order is ours: highest response ratio next,
``wait / own``, where own is the time that endpoint would compute for it. Short prompts,
and those of which an endpoint holds much, go first; but whoever waits gains, so none starves.
A request does not go to just any endpoint that opens: only where it costs no more than at its best
one plus what it has waited. It would have been sent there at once had its best one's queue been so
long, and sessions that scatter lose their prefixes, which makes work, which fills the endpoints.
Source: Brinch Hansen, "An analysis of response ratio scheduling", IFIP 1971.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Final

from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.prefixes import NOTHING, Cached

LOOKED_AT: Final = 4
"""Requests looked at closely when an endpoint opens; each look costs about what a decision does."""

FLOOR_MS: Final = 20.0
"""Added to a request's own time in the ratio: below one step, shorter is no better."""

HEAD_START_MS: Final = 50.0
"""Added to a request's wait, so that among new ones the shorter goes first."""


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """When and how much is held.

    Attributes:
        requests: Most requests held; more are sent on at once, full or not. 0 never holds.
        longest_s: Longest that one is held; then it is sent where it costs least, full or not.
        queue_ms: An endpoint whose queue is longer is full. One long step of a large engine: enough
            that it never runs dry while the next request is on its way.
        kv_ratio: An endpoint whose KV cache would be fuller is full too; beyond it an engine
            keeps requests waiting, or preempts others for them. A little above 1, as most replies
            end before the room counted for them is used.

    """

    requests: int = 1_024
    longest_s: float = 60.0
    queue_ms: float = 250.0
    kv_ratio: float = 1.05


@dataclass(slots=True)
class Held:
    """One request held; ``cached`` is what was known when it came, and is looked up again later.

    ``since_s`` is in engine seconds, ``tokens`` the KV tokens it will need, ``attempt`` how many
    times it was sent before.
    """

    request: RouteRequest
    exclude: frozenset[EndpointId]
    since_s: float
    tokens: float
    cached: Mapping[EndpointId, Cached]
    attempt: int = 0

    def waited_ms(self, now_s: float) -> float:
        """Return for how long it has been held, in engine milliseconds."""
        return (now_s - self.since_s) * 1_000.0

    def miss(self, endpoint_id: EndpointId) -> float:
        """Return the prompt tokens that an endpoint would have to compute."""
        return self.request.prompt_tokens - self.cached.get(endpoint_id, NOTHING).tokens


@dataclass(frozen=True, slots=True)
class Opening:
    """An endpoint that can take a request now, and how fast it is.

    ``room_tokens`` is how many KV tokens more it may be given.
    """

    endpoint_id: EndpointId
    room_tokens: float
    fixed_ms: float
    per_token_ms: float


class HeldRequests:
    """The requests held, oldest first. One owner."""

    def __init__(self, limits: HoldLimits) -> None:
        self.limits = limits
        self._held: OrderedDict[RequestId, Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def has_room(self) -> bool:
        """Return whether one more may be held."""
        return len(self._held) < self.limits.requests

    def add(self, held: Held) -> None:
        """Hold a request, which must not be held already."""
        request_id = held.request.request_id
        assert request_id not in self._held
        self._held[request_id] = held

    def remove(self, request_id: RequestId) -> Held | None:
        """Let a request go; None if it was not held."""
        return self._held.pop(request_id, None)

    def overdue(self, now_s: float) -> Held | None:
        """Return the oldest if it has been held as long as it may."""
        oldest = next(iter(self._held.values()), None)
        if oldest is None or now_s - oldest.since_s < self.limits.longest_s:
            return None
        return oldest

    def stranded(
        self, may_serve: Callable[[RouteRequest, frozenset[EndpointId]], bool]
    ) -> list[RouteRequest]:
        """Take out and return those that no endpoint may serve any more, leaving out some."""
        lost = [h.request for h in self._held.values() if not may_serve(h.request, h.exclude)]
        for request in lost:
            del self._held[request.request_id]
        return lost

    def ranked(
        self,
        openings: Sequence[Opening],
        admits: Callable[[EndpointId, RouteRequest], bool],
        now_s: float,
    ) -> list[Held]:
        """Return the requests that fit into some opening, whose turn it is first; at most a few.

        Args:
            openings: Endpoints that can take a request now.
            admits: Whether an endpoint is one that may serve a request.
            now_s: Engine seconds.

        """
        if not openings:
            return []
        fitting: list[tuple[int, float, int, Held]] = []
        for number, held in enumerate(self._held.values()):
            request = held.request
            own_ms = min(
                (
                    opening.fixed_ms + opening.per_token_ms * held.miss(opening.endpoint_id)
                    for opening in openings
                    if held.tokens <= opening.room_tokens
                    and opening.endpoint_id not in held.exclude
                    and admits(opening.endpoint_id, request)
                ),
                default=None,
            )
            if own_ms is not None:
                waited_ms = held.waited_ms(now_s) + HEAD_START_MS
                ratio = waited_ms / (own_ms + FLOOR_MS)
                fitting.append((request.priority, ratio, -number, held))
        return [held for *_, held in nlargest(LOOKED_AT, fitting)]
