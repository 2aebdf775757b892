"""The shell around every rival's rule: what it knows, and the twin's placement protocol. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from typing_extensions import override

from bench.rivals.flights import Flights
from bench.rivals.prefixes import KvIndex
from headrace.core.endpoint import BlockScheme, EndpointView, EngineLoad
from headrace.core.ids import EndpointId, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.twin.placement import BlocksChanged, EngineTruth, Placed, Placement

Truth = Callable[[EndpointId], EngineTruth]


class Choice(NamedTuple):
    """Which endpoint, by index, and the tokens that the rival books there until a first token."""

    endpoint_index: int
    booked_tokens: int = 0


class Rule(Protocol):
    """A rival's decision; made anew for each run, it may keep state."""

    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        """Return where the request goes; the shell sends it there at once."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """What an engine said of itself.

    Attributes:
        load: Its counts; what every engine reports.
        pending_tokens: Uncached prompt tokens it had still to compute; 0 for a rival whose engines
            do not say.
        booked_before: Tokens booked there before the report, in all.

    """

    load: EngineLoad
    pending_tokens: int
    booked_before: int


class Known:
    """What a rule may ask; per-endpoint answers are in the order of the views.

    The four questions at the end are answered from what the rival has in reality, or, in an
    oracle form, from what the engines really have now.
    """

    def __init__(
        self,
        views: Sequence[EndpointView],
        scheme: BlockScheme,
        rng: random.Random,
        truth: Truth | None = None,
    ) -> None:
        self.ids = [view.endpoint_id for view in views]
        self.size = len(views)
        self.prefill_tokens_per_s = [view.speed.prefill_tokens_per_s for view in views]
        self.kv_tokens = [view.speed.kv_tokens for view in views]
        self.scheme = scheme
        self.rng = rng
        self.flights = Flights(self.size)
        self.index = KvIndex(self.size)
        self.reports: list[Report | None] = [None] * self.size
        self.oracle = truth is not None
        self._truth = truth
        self._seen: list[EngineTruth] = []

    def lowest(self, costs: Sequence[float]) -> int:
        """Return the index of the lowest cost; equals are drawn by lot."""
        best = min(costs)
        ties = [index for index, cost in enumerate(costs) if cost == best]
        return ties[0] if len(ties) == 1 else self.rng.choice(ties)

    def keys(self, request: RouteRequest) -> Sequence[int]:
        """Return the hashes of the prompt's full engine blocks."""
        return request.engine_blocks.get(self.scheme, ())

    def tokens(self, request: RouteRequest, engine_blocks: Sequence[int]) -> list[int]:
        """Return depths in engine blocks as tokens; an engine computes one token at least."""
        block_tokens = self.scheme.block_tokens
        limit = (request.prompt_tokens - 1) // block_tokens * block_tokens
        return [min(depth * block_tokens, limit) for depth in engine_blocks]

    def engines(self) -> list[EngineTruth]:
        """Return what the engines really have; for oracle forms only."""
        if not self._seen:
            assert self._truth is not None
            self._seen = [self._truth(endpoint_id) for endpoint_id in self.ids]
        return self._seen

    def look_again(self) -> None:
        """Forget what the engines had at the last decision."""
        self._seen = []

    def cached_tokens(self, request: RouteRequest) -> list[int]:
        """Return the prompt's leading tokens that each endpoint holds.

        Known from KV events, which lag; an oracle adds the prompts in flight there, which are or
        will be held by the time that this one is computed.
        """
        keys = self.keys(request)
        found = self.index.depths(keys)
        if self.oracle:
            found = list(map(max, found, self.flights.depths(keys)))
        return self.tokens(request, found)

    def counts(self) -> list[int]:
        """Return the requests at each endpoint, in its queue or in its batch."""
        if self.oracle:
            return [engine.running + engine.waiting for engine in self.engines()]
        return self.flights.requests

    def pending_tokens(self) -> list[int]:
        """Return the prompt tokens each has still to compute: what was booked and not yet seen."""
        if self.oracle:
            return [engine.pending_prefill_tokens for engine in self.engines()]
        return self.flights.booked_tokens

    def loads(self, now_s: float) -> list[EngineLoad]:
        """Return the last reports; an endpoint that never reported counts as idle."""
        if self.oracle:
            return [
                EngineLoad(engine.running, engine.waiting, engine.kv_used_ratio, now_s)
                for engine in self.engines()
            ]
        idle = EngineLoad(0, 0, 0.0, now_s)
        return [report.load if report else idle for report in self.reports]


class Rival(Placement):
    """Places requests by a rule, at once, and keeps what the rule may know.

    Args:
        make: Makes the rule, once the endpoints are known.
        seed: Of its lots.
        scrape_s: Seconds between engine reports, or None.
        kv_events: Whether it listens to KV events.
        detailed: Whether engines report their pending prompt tokens too; in reality they are what
            this rival's own engine-side part sends with every report.
        oracle: Whether the rule sees what engines really have.

    """

    def __init__(
        self,
        make: Callable[[Known], Rule],
        seed: int,
        *,
        scrape_s: float | None = None,
        kv_events: bool = False,
        detailed: bool = False,
        oracle: bool = False,
    ) -> None:
        self.scrape_s = scrape_s
        self.kv_events = kv_events
        self._make = make
        self._rng = random.Random(seed)
        self._detailed = detailed
        self._oracle = oracle
        self._reported_by: Truth | None = None
        self._known: Known
        self._rule: Rule
        self._indexes: dict[EndpointId, int] = {}

    @override
    def begin(self, views: Sequence[EndpointView], scheme: BlockScheme, truth: Truth) -> None:
        self._known = Known(views, scheme, self._rng, truth if self._oracle else None)
        self._indexes = {view.endpoint_id: index for index, view in enumerate(views)}
        self._reported_by = truth if self._detailed else None
        self._rule = self._make(self._known)

    @override
    def submit(self, request: RouteRequest, now_s: float) -> Sequence[Placed]:
        known = self._known
        known.look_again()
        choice = self._rule.choose(request, now_s)
        known.flights.sent(request, *choice, known.keys(request), now_s)
        return (Placed(request, known.ids[choice.endpoint_index]),)

    @override
    def first_token(self, request_id: RequestId, now_s: float) -> Sequence[Placed]:
        self._known.flights.first_token(request_id)
        return ()

    @override
    def ended(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        self._known.flights.ended(request_id)
        return ()

    @override
    def changed(self, endpoint_id: EndpointId, change: BlocksChanged, now_s: float) -> None:
        self._known.index.changed(self._indexes[endpoint_id], change)

    @override
    def reported(self, endpoint_id: EndpointId, load: EngineLoad, now_s: float) -> Sequence[Placed]:
        index, known = self._indexes[endpoint_id], self._known
        pending = self._reported_by(endpoint_id).pending_prefill_tokens if self._reported_by else 0
        known.reports[index] = Report(load, pending, known.flights.ever_booked_tokens[index])
        return ()

    @override
    def check(self) -> None:
        self._known.flights.check()
