"""What places requests in a twin run: the production router, or what it is compared with. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from headrace.core.endpoint import BlockScheme, EndpointView, EngineLoad
from headrace.core.ids import EndpointId, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest


@dataclass(frozen=True, slots=True)
class Placed:
    """A request to be sent to an endpoint now; first to ``prefill_id`` for its prompt, if given."""

    request: RouteRequest
    endpoint_id: EndpointId
    prefill_id: EndpointId | None = None


@dataclass(frozen=True, slots=True)
class BlocksChanged:
    """KV blocks that an engine stored, removed, or (``cleared``) dropped all of.

    ``stored`` and ``removed`` are hashes under the engine's scheme, in the order of its events;
    within one change everything removed went before anything stored. ``chains`` says where in
    ``stored`` a chain begins, and the hash before it, None at the start of a prompt.
    """

    stored: Sequence[int] = ()
    chains: Sequence[tuple[int, int | None]] = ()
    removed: Sequence[int] = ()
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class EngineTruth:
    """What an engine really has at this moment; no router could know it. For oracles only.

    Attributes:
        running: Sequences in its batch.
        waiting: Requests not yet taken up.
        kv_used_ratio: KV blocks in use over all.
        pending_prefill_tokens: Uncached prompt tokens it has still to compute.
        resident_tokens: Tokens of the sequences in its batch.

    """

    running: int
    waiting: int
    kv_used_ratio: float
    pending_prefill_tokens: int
    resident_tokens: int


class Placement(Protocol):
    """Decides where requests go. The twin calls it, with virtual time, and sends what it returns.

    Attributes:
        scrape_s: Seconds between engine reports, or None if it asks for none.
        kv_events: Whether it listens to KV events.

    """

    scrape_s: float | None
    kv_events: bool

    def begin(
        self,
        views: Sequence[EndpointView],
        scheme: BlockScheme,
        truth: Callable[[EndpointId], EngineTruth],
    ) -> None:
        """Take the endpoints and how all name their blocks; called once, first.

        Only an oracle may keep ``truth``.
        """
        ...

    def submit(self, request: RouteRequest, now_s: float) -> Sequence[Placed]:
        """Take a new request; return what is to be sent now, which may be nothing yet."""
        ...

    def first_token(self, request_id: RequestId, now_s: float) -> Sequence[Placed]:
        """Note a first token; return what is to be sent now."""
        ...

    def ended(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        """Note an end; return what is to be sent now."""
        ...

    def changed(self, endpoint_id: EndpointId, change: BlocksChanged, now_s: float) -> None:
        """Learn of KV events; called only if ``kv_events``."""
        ...

    def reported(self, endpoint_id: EndpointId, load: EngineLoad, now_s: float) -> Sequence[Placed]:
        """Learn of an engine's report; called only if ``scrape_s``; return what is to be sent."""
        ...

    def check(self) -> None:
        """Assert that nothing is left in flight; called at the end."""
        ...


CallBack = Callable[[RequestId], None]
"""Takes a request that has no first token away from the endpoint it was sent to, to be sent again.
"""

After = Callable[[float, Callable[[float], Sequence[Placed]]], None]
"""Calls back after so many virtual seconds, with the time then, and sends what is returned."""


@runtime_checkable
class SelfTimed(Protocol):
    """A placement in which things happen between the twin's calls, such as news on their way."""

    def timed(self, after: After, call_back: CallBack) -> None:
        """Take what sets timers, and what calls requests back; called once, before ``begin``."""
        ...


@runtime_checkable
class Splitting(Protocol):
    """A placement that may let one endpoint compute a prompt and another the reply."""

    def prefilled(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        """Note that a prompt is computed; return what else is to be sent now."""
        ...
