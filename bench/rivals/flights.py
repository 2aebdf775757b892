"""What a rival has sent and not yet seen end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.rivals.prefixes import shared
from headrace.core.ids import RequestId
from headrace.core.request import RouteRequest


@dataclass(slots=True)
class Flight:
    """A request on its way.

    Attributes:
        index: Its endpoint.
        booked_tokens: Counted there until the first token.
        keys: Its full engine blocks; empty if nobody tokenised it.
        sent_s: When.

    """

    index: int
    booked_tokens: int
    keys: Sequence[int]
    sent_s: float


class Flights:
    """Requests in flight and sums over them; lists are per endpoint.

    Attributes:
        requests: How many.
        booked_tokens: Of those without a first token.
        ever_booked_tokens: All that was ever booked.
        blocks: Distinct engine blocks of their prompts.

    """

    def __init__(self, size: int) -> None:
        self.requests = [0] * size
        self.booked_tokens = [0] * size
        self.ever_booked_tokens = [0] * size
        self.blocks = [0] * size
        self._by_id: dict[RequestId, Flight] = {}
        self._at: list[dict[RequestId, Flight]] = [{} for _ in range(size)]

    def sent(
        self,
        request: RouteRequest,
        index: int,
        booked_tokens: int,
        keys: Sequence[int],
        now_s: float,
    ) -> None:
        """Note a dispatch."""
        self.blocks[index] += len(keys) - self._depth(index, keys)
        flight = Flight(index, booked_tokens, keys, now_s)
        self._by_id[request.request_id] = self._at[index][request.request_id] = flight
        self.requests[index] += 1
        self.booked_tokens[index] += booked_tokens
        self.ever_booked_tokens[index] += booked_tokens

    def first_token(self, request_id: RequestId) -> None:
        """Note that its prompt is computed."""
        flight = self._by_id[request_id]
        self.booked_tokens[flight.index] -= flight.booked_tokens
        flight.booked_tokens = 0

    def ended(self, request_id: RequestId) -> None:
        """Note its end."""
        self.first_token(request_id)
        flight = self._by_id.pop(request_id)
        index = flight.index
        del self._at[index][request_id]
        self.requests[index] -= 1
        self.blocks[index] -= len(flight.keys) - self._depth(index, flight.keys)

    def depths(self, keys: Sequence[int], since_s: float = float("-inf")) -> list[int]:
        """Return, per endpoint, the leading ``keys`` that some flight sent since then has too."""
        return [self._depth(index, keys, since_s) for index in range(len(self._at))]

    def check(self) -> None:
        """Assert that nothing is in flight."""
        assert not self._by_id, "requests are still in flight"
        for sums in (self.requests, self.booked_tokens, self.blocks):
            assert not any(sums), "what was counted was not given back"

    def _depth(self, index: int, keys: Sequence[int], since_s: float = float("-inf")) -> int:
        depth, length = 0, len(keys)
        for flight in reversed(self._at[index].values()):  # latest first
            if depth == length or flight.sent_s < since_s:
                break
            others = flight.keys
            # Most share no more than is known already: one comparison tells.
            if depth < len(others) and others[depth] == keys[depth]:
                depth = shared(others, keys, depth)
        return depth
