"""Whether to try another endpoint, and which to leave alone for a while. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from headrace.core.errors import (
    CapacityError,
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    HeadraceError,
)
from headrace.core.ids import EndpointId

NONE_RESTING: Final[frozenset[EndpointId]] = frozenset()


class RetryReason(StrEnum):
    """Why an attempt is repeated: the label of ``headrace_retries_total``."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    BUSY = "busy"
    RECALLED = "recalled"


def retry_reason(
    error: HeadraceError, *, attempts: int, limit: int, begun: bool
) -> RetryReason | None:
    """Decide whether to try once more after ``error``; None means no.

    Args:
        error: How the last attempt failed.
        attempts: How many there have been, >= 1.
        limit: How many there may be.
        begun: Whether a byte of a reply has gone to the client; then there is no other try (INV-2).

    """
    if begun or attempts >= limit:
        return None
    if isinstance(error, CapacityError):
        return RetryReason.BUSY
    if not isinstance(error, EngineError) or not error.retry_safe:
        return None
    if isinstance(error, EngineUnreachable):
        return RetryReason.UNREACHABLE
    if isinstance(error, EngineTimeout):
        return RetryReason.TIMEOUT
    return RetryReason.REFUSED


class Circuit:
    """Endpoints that could not be reached, resting for a time that doubles. One owner.

    It holds only endpoints that failed since their last success, so it is bounded by the fleet.
    """

    def __init__(self, *, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._failing: dict[EndpointId, tuple[int, float]] = {}

    def failed(self, endpoint_id: EndpointId, now_s: float) -> None:
        """Note a failure; a failure during a rest does not lengthen it."""
        count, until_s = self._failing.get(endpoint_id, (0, 0.0))
        if now_s < until_s:
            return
        rest_s = min(self._most_s, self._first_s * 2.0 ** min(count, 30))
        self._failing[endpoint_id] = (count + 1, now_s + rest_s)

    def succeeded(self, endpoint_id: EndpointId) -> None:
        """Note that the endpoint answered."""
        if self._failing:
            self._failing.pop(endpoint_id, None)

    def resting(self, now_s: float) -> frozenset[EndpointId]:
        """Return the endpoints not to be tried now, if there are others."""
        if not self._failing:
            return NONE_RESTING
        return frozenset(e for e, (_, until_s) in self._failing.items() if now_s < until_s)

    def keep(self, known: frozenset[EndpointId]) -> None:
        """Forget endpoints that are no longer in the fleet."""
        for endpoint_id in [e for e in self._failing if e not in known]:
            del self._failing[endpoint_id]
