"""What is believed of endpoints, put together for one decision. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from headrace.core.endpoint import EndpointView
from headrace.core.ids import EndpointId
from headrace.core.request import RouteRequest
from router.adapters import FREE, AdapterBook
from router.disaggregation import pairs
from router.endpoints import Endpoints
from router.held import Held, HoldLimits, Opening
from router.ledger import EndpointLoad, Ledger, resident_tokens
from router.policy import Candidate
from router.prefixes import NOTHING, Cached, Prefixes

SESSIONS_LIMIT: Final = 50_000
"""Most sessions of which the last endpoint is remembered; about 250 bytes each."""


class Sessions:
    """Which endpoint served a session last; the sessions seen last are remembered."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, EndpointId] = OrderedDict()

    def went(self, session: str | None, endpoint_id: EndpointId) -> None:
        """Note where a request of the session was sent."""
        if session is None:
            return
        self._last[session] = endpoint_id
        self._last.move_to_end(session)
        if len(self._last) > SESSIONS_LIMIT:
            self._last.popitem(last=False)

    def last(self, session: str | None) -> EndpointId | None:
        """Return where its last request was sent, if that is known."""
        return None if session is None else self._last.get(session)


class Candidates:
    """Makes candidates of endpoints, from a router's books."""

    def __init__(  # noqa: PLR0913 -- the books of a router
        self,
        endpoints: Endpoints,
        ledger: Ledger,
        prefixes: Prefixes,
        *,
        sessions: Sessions,
        adapters: AdapterBook,
        time_scale: float,
        splits: bool,
    ) -> None:
        self._splits = splits
        self._adapters = adapters
        self._endpoints = endpoints
        self._ledger = ledger
        self._prefixes = prefixes
        self._sessions = sessions
        self._time_scale = time_scale

    def load(self, view: EndpointView) -> EndpointLoad:
        """Return what is in flight on an endpoint, made when first asked for."""
        presumed = view.speed.prefill_tokens_per_s / self._time_scale
        return self._ledger.load(view.endpoint_id, presumed)

    def choices(
        self,
        request: RouteRequest,
        views: Sequence[EndpointView],
        cached: Mapping[EndpointId, Cached],
        exclude: frozenset[EndpointId],
        engine_s: float,
    ) -> list[Candidate]:
        """Return the endpoints, and where they may split the request the pairs behind them."""
        found = self.of(request, views, cached, engine_s)
        if request.may_split and self._splits:
            found += self.pairs(request, found, cached, exclude, engine_s)
        return found

    def of(
        self,
        request: RouteRequest,
        views: Sequence[EndpointView],
        cached: Mapping[EndpointId, Cached],
        engine_s: float,
    ) -> list[Candidate]:
        """Return what is known of each endpoint, in the order given."""
        last = self._sessions.last(request.session)
        adapted = self._adapters.is_adapter(request.model)
        exact = self._prefixes.exact(request)
        made: list[Candidate] = []
        for view in views:  # written out: it runs once per endpoint in every decision
            endpoint_id, speed = view.endpoint_id, view.speed
            load = self.load(view)
            held = cached.get(endpoint_id, NOTHING)
            fit, kv_tokens = load.speed, load.kv_tokens
            adapter = self._adapters.cost(endpoint_id, request.model, engine_s) if adapted else FREE
            sent_per_ms, busy_ratio = load.rates(engine_s)
            slot_ms, batch_ratio = load.batch(sent_per_ms, speed.sequences)
            made.append(
                Candidate(
                    endpoint_id,
                    held.tokens,
                    load.inflight,
                    load.decoding,
                    load.queued_ms(engine_s),
                    kv_tokens,
                    speed.kv_tokens,
                    fit.fixed_ms + fit.per_beside_ms * kv_tokens,
                    fit.per_token_ms,
                    fit.per_pair_ms,
                    (held.tokens - held.gpu_tokens) / speed.fetch_tokens_per_s * 1_000.0,
                    adapter.load_ms,
                    last == endpoint_id,
                    endpoint_id in exact,
                    None,
                    sent_per_ms,
                    busy_ratio,
                    adapter.others_ms,
                    slot_ms,
                    batch_ratio,
                )
            )
        return made

    def pairs(
        self,
        request: RouteRequest,
        replying: Sequence[Candidate],
        cached: Mapping[EndpointId, Cached],
        exclude: frozenset[EndpointId],
        engine_s: float,
    ) -> list[Candidate]:
        """Return pairs that could share a request; the second of each is one of ``replying``."""
        views = self._endpoints.that_may_prefill(request, exclude)
        if not views or not replying:
            return []
        speeds = [self._endpoints.get(c.endpoint_id).speed for c in replying]
        return pairs(
            request.prompt_tokens,
            self.of(request, views, cached, engine_s),
            replying,
            [speed.transfer_tokens_per_s for speed in speeds],
        )

    def room(self, view: EndpointView, limits: HoldLimits, engine_s: float) -> float:
        """Return the KV tokens that an endpoint may be given now; below zero when it is full."""
        load = self.load(view)
        if load.inflight == 0:
            return float("inf")
        if load.queued_ms(engine_s) >= limits.queue_ms:
            return -1.0
        return limits.kv_ratio * view.speed.kv_tokens - load.kv_tokens

    def has_room(
        self, request: RouteRequest, view: EndpointView, limits: HoldLimits, engine_s: float
    ) -> bool:
        """Return whether an endpoint has KV and, if need be, an adapter's slot for a request."""
        return self.room(view, limits, engine_s) >= resident_tokens(
            request
        ) and self._adapters.fits(view.endpoint_id, request.model)

    def fitting(self, held: Held, openings: Sequence[Opening]) -> frozenset[EndpointId]:
        """Return those of the openings that a held request fits into."""
        return frozenset(
            opening.endpoint_id
            for opening in openings
            if opening.room_tokens >= held.tokens and self.admits(opening.endpoint_id, held.request)
        )

    def admits(self, endpoint_id: EndpointId, request: RouteRequest) -> bool:
        """Return whether an endpoint could run a request now, given room for its KV."""
        return self._endpoints.admits(endpoint_id, request) and self._adapters.fits(
            endpoint_id, request.model
        )

    def openings(self, limits: HoldLimits, engine_s: float) -> list[Opening]:
        """Return the endpoints that may be given a request now, by id."""
        openings = []
        for view in self._endpoints.ready():
            room = self.room(view, limits, engine_s)
            if room > 0.0:
                speed = self.load(view).speed
                openings.append(Opening(view.endpoint_id, room, speed.fixed_ms, speed.per_token_ms))
        return openings
