"""Requests that wait in the gateway because every endpoint is full. Pure.

An engine serves in the order of arrival and cannot give a request back. Held here, a request goes
to whichever endpoint is free first, and the order is ours: highest response ratio next,
``wait / own``, where own is the time that endpoint would compute for it. Short prompts,
and those of which an endpoint holds much, go first; but whoever waits gains, so none starves.
Source: Brinch Hansen, "An analysis of response ratio scheduling", IFIP 1971.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.prefixes import NOTHING, Cached

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
        queue_ms: An endpoint whose queue is longer is full. One step of a large engine: enough
            that it never runs dry while the next request is on its way.
        kv_ratio: An endpoint whose KV cache would be fuller is full too; beyond it an engine
            keeps requests waiting, or preempts others for them.

    """

    requests: int = 1_024
    longest_s: float = 60.0
    queue_ms: float = 150.0
    kv_ratio: float = 0.95


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

    def all(self) -> list[Held]:
        """Return all, oldest first."""
        return list(self._held.values())

    def next_for(
        self,
        openings: Iterable[Opening],
        admits: Callable[[EndpointId, RouteRequest], bool],
        now_s: float,
    ) -> Held | None:
        """Return the request to send next; None if none fits into any opening.

        Args:
            openings: Endpoints that can take a request now.
            admits: Whether an endpoint is one that may serve a request.
            now_s: Engine seconds.

        """
        best: Held | None = None
        highest = (-(1 << 62), 0.0)
        for opening in openings:
            endpoint_id, per_token_ms = opening.endpoint_id, opening.per_token_ms
            fixed_ms = opening.fixed_ms + FLOOR_MS
            for held in self._held.values():
                request = held.request
                if held.tokens > opening.room_tokens or endpoint_id in held.exclude:
                    continue
                if not admits(endpoint_id, request):
                    continue
                miss = request.prompt_tokens - held.cached.get(endpoint_id, NOTHING).tokens
                own_ms = fixed_ms + miss * per_token_ms
                ratio = ((now_s - held.since_s) * 1_000.0 + HEAD_START_MS) / own_ms
                if (request.priority, ratio) > highest:
                    highest, best = (request.priority, ratio), held
        return best
