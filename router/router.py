"""The router of one gateway: endpoints, ledger and prefixes behind one choice. Pure.

One owner calls it, synchronously, with the time. The gateway and the twin use the same object.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from headrace.core.endpoint import BlockScheme, EndpointView
from headrace.core.errors import ModelNotFound, NoEndpoint
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from kvcache.index import IndexLimits
from router.catalog import DEFAULT_POLICY, make_policy
from router.decide import Decision, decide, tie_rng
from router.endpoints import Endpoints
from router.held import Held, HeldRequests, HoldLimits, Opening
from router.ledger import Ledger, resident_tokens
from router.memory import memory_reader
from router.others import OtherReplicas
from router.policy import Candidate
from router.prefixes import NOTHING, Cached, Prefixes
from router.reserve import ReserveObserver

SESSIONS_LIMIT: Final = 50_000
"""Most sessions of which the last endpoint is remembered; about 250 bytes each."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a router may be told beyond its policy.

    Attributes:
        seed: Of the chance that breaks ties.
        time_scale: Engine seconds per second of ``now_s``; not 1 only for simulated engines that
            outrun the clock. Policies weigh engine milliseconds against constants of their own,
            so a fleet at any scale is routed as one at 1 would be.
        hold: When requests are held back.
        index: Bounds of each prefix index.

    """

    seed: int = 0
    time_scale: float = 1.0
    hold: HoldLimits = field(default_factory=HoldLimits)
    index: IndexLimits = field(default_factory=IndexLimits)


@dataclass(slots=True)
class _Sent:
    """A request in flight: what was believed when it was sent."""

    request: RouteRequest
    endpoint_id: EndpointId
    cached_tokens: float


class Router:
    """Places requests on endpoints and keeps count of what is where.

    Args:
        policy: One of ``router.catalog.POLICIES``.
        options: See there.
        observer: Hears of every reserve, to tell other gateway replicas; None for a single one.

    Attributes:
        prefixes: What endpoints hold; whoever follows KV events tells it.
        others: Takes what other gateway replicas have in flight.
        policy_name: The policy's name in the catalogue.
        seed: Of the chance that breaks ties.

    """

    def __init__(
        self,
        policy: str = DEFAULT_POLICY,
        options: Options | None = None,
        observer: ReserveObserver | None = None,
    ) -> None:
        self._options = options or Options()
        assert self._options.time_scale > 0
        self.policy_name = policy
        self.seed = self._options.seed
        self.time_scale = self._options.time_scale
        self.prefixes = Prefixes(self._options.index)
        self._policy = make_policy(policy)
        self._memory = memory_reader(self._policy)
        self._observer = observer
        self._endpoints = Endpoints()
        self._ledger = Ledger()
        self._held = HeldRequests(self._options.hold)
        self._sent: dict[RequestId, _Sent] = {}
        self._sessions: OrderedDict[str, EndpointId] = OrderedDict()
        self.others = OtherReplicas(
            self._ledger, self.prefixes, self._endpoints, self._options.time_scale
        )

    # Endpoints.

    def set_endpoints(self, endpoints: Iterable[EndpointView]) -> None:
        """Replace the list of endpoints with the whole of the new one.

        An endpoint that went down, or vanished, is taken to have lost its cache. ``placed`` tells
        what the change means to requests that are held.
        """
        for endpoint_id in self._endpoints.set(endpoints):
            self.prefixes.gone(endpoint_id)
        self._ledger.forget_idle(self._endpoints.ids())
        for view in self._endpoints.all():
            if view.load is not None:
                at_s = view.load.at_s * self.time_scale
                load = self._ledger.load(view.endpoint_id, self._presumed(view))
                load.reported(replace(view.load, at_s=at_s), view.speed.kv_tokens)

    def endpoint(self, endpoint_id: EndpointId) -> EndpointView:
        """Return the endpoint as last set; KeyError if it is not in the list."""
        return self._endpoints.get(endpoint_id)

    def endpoints(self) -> list[EndpointView]:
        """Return all endpoints, by id."""
        return self._endpoints.all()

    def models(self) -> list[ModelName]:
        """Return the names that some endpoint serves, whatever its health, sorted."""
        return self._endpoints.models()

    def serving(self, model: ModelName) -> Sequence[EndpointView]:
        """Return the endpoints that serve a model or can load it, whatever their health, by id."""
        return self._endpoints.serving(model)

    # Placing.

    def choose(
        self,
        request: RouteRequest,
        now_s: float,
        exclude: frozenset[EndpointId] = frozenset(),
        *,
        attempt: int = 0,
    ) -> Decision:
        """Decide where ``request`` should go; reserves nothing and holds nothing.

        Args:
            request: The request to place.
            now_s: Monotonic seconds.
            exclude: Endpoints already tried, or resting after a failure.
            attempt: How many times it was sent before.

        Raises:
            ModelNotFound: if no endpoint serves the model by that name.
            NoEndpoint: if those that do are down, draining or excluded.

        """
        candidates = self.candidates(request, now_s, exclude)
        return self._decide(request, candidates, attempt)

    def place(
        self,
        request: RouteRequest,
        now_s: float,
        exclude: frozenset[EndpointId] = frozenset(),
        *,
        attempt: int = 0,
    ) -> Decision | None:
        """Choose and reserve; or, while every endpoint is full, hold the request and return None.

        One that is held comes back from ``placed``, or is taken out by ``withdraw``.

        Raises:
            ModelNotFound, NoEndpoint: as ``choose``.
            ValueError: if a request with that id is already in flight.

        """
        engine_s = now_s * self.time_scale
        views = self._endpoints.that_may_serve(request, exclude)
        cached = self.prefixes.cached(request, engine_s)
        if self._policy.holds and views and self._held.has_room():
            tokens = resident_tokens(request)
            if not any(self._room(view, engine_s) >= tokens for view in views):
                self._held.add(Held(request, exclude, engine_s, tokens, cached, attempt))
                return None
        candidates = [self._candidate(view, request, cached, engine_s) for view in views]
        decision = self._decide(request, candidates, attempt)
        self.dispatched(request, decision, now_s)
        return decision

    def placed(self, now_s: float) -> list[tuple[RouteRequest, Decision | None]]:
        """Return the held requests that are to be sent now, reserved; call after every change.

        None instead of a decision: no endpoint is left that could serve it.
        """
        sent: list[tuple[RouteRequest, Decision | None]] = []
        engine_s = now_s * self.time_scale
        while len(self._held):
            held = self._held.overdue(engine_s)
            only: frozenset[EndpointId] | None = None
            if held is None:
                openings = self._openings(engine_s)
                held = self._held.next_for(openings, self._endpoints.admits, engine_s)
                if held is None:
                    break
                only = frozenset(o.endpoint_id for o in openings if o.room_tokens >= held.tokens)
            self._held.remove(held.request.request_id)
            sent.append((held.request, self._release_held(held, only, now_s)))
        return sent

    def _release_held(
        self, held: Held, only: frozenset[EndpointId] | None, now_s: float
    ) -> Decision | None:
        request, exclude = held.request, held.exclude
        if only is not None:
            exclude |= self._endpoints.ids() - only
        try:
            decision = self.choose(request, now_s, exclude, attempt=held.attempt)
        except (ModelNotFound, NoEndpoint):
            return None
        self.dispatched(request, decision, now_s)
        return decision

    def stranded(self) -> list[RouteRequest]:
        """Take out and return the held requests that no ready endpoint could serve any more."""
        lost = [
            held.request
            for held in self._held.all()
            if not self._endpoints.may_serve(held.request, held.exclude)
        ]
        for request in lost:
            self._held.remove(request.request_id)
        return lost

    def withdraw(self, request_id: RequestId) -> bool:
        """Take a held request out: its client left. False if it was not held."""
        return self._held.remove(request_id) is not None

    @property
    def held(self) -> int:
        """Requests held."""
        return len(self._held)

    def candidates(
        self,
        request: RouteRequest,
        now_s: float,
        exclude: frozenset[EndpointId] = frozenset(),
    ) -> list[Candidate]:
        """Return what is known of each endpoint that may serve ``request``, by id.

        Raises:
            ModelNotFound: as ``choose``.

        """
        engine_s = now_s * self.time_scale
        cached = self.prefixes.cached(request, engine_s)
        return [
            self._candidate(view, request, cached, engine_s)
            for view in self._endpoints.that_may_serve(request, exclude)
        ]

    # Keeping count.

    def dispatched(self, request: RouteRequest, decision: Decision, now_s: float) -> None:
        """Reserve: ``request`` is being sent where ``decision`` says.

        Raises:
            ValueError: if a request with that id is already in flight.

        """
        endpoint_id, candidate = decision.endpoint_id, decision.candidate
        engine_s = now_s * self.time_scale
        reserve = self._ledger.dispatched(request, endpoint_id, candidate.cached_tokens, engine_s)
        self._sent[request.request_id] = _Sent(request, endpoint_id, candidate.cached_tokens)
        self.prefixes.sent(endpoint_id, request, candidate.kv_tokens, engine_s)
        if request.session is not None:
            self._sessions[request.session] = endpoint_id
            self._sessions.move_to_end(request.session)
            if len(self._sessions) > SESSIONS_LIMIT:
                self._sessions.popitem(last=False)
        if self._observer is not None:
            self._observer.on_dispatched(
                replace(
                    reserve,
                    dispatched_s=now_s,
                    blocks=request.blocks,
                    block_tokens=request.block_tokens,
                    engine_blocks=request.engine_blocks,
                )
            )

    def first_token(self, request_id: RequestId, now_s: float) -> None:
        """Note that the first token of ``request_id`` came; later calls change nothing."""
        self._ledger.first_token(request_id, now_s * self.time_scale)
        if self._observer is not None:
            self._observer.on_first_token(request_id, now_s)

    def released(self, request_id: RequestId, now_s: float, usage: Usage | None = None) -> None:
        """Release the reserve of ``request_id``, however it ended; harmless when there is none.

        ``usage`` is what the engine reported, if it did: it corrects what is believed of it.
        """
        self._ledger.released(request_id, now_s * self.time_scale)
        sent = self._sent.pop(request_id, None)
        if sent is not None and usage is not None:
            self.prefixes.answered(sent.endpoint_id, sent.request, sent.cached_tokens, usage)
        if self._observer is not None:
            self._observer.on_released(request_id, now_s)

    def inflight(self, endpoint_id: EndpointId) -> int:
        """Return how many requests are in flight on ``endpoint_id``, other replicas' included."""
        return self._ledger.inflight(endpoint_id)

    def schemes(self) -> set[BlockScheme]:
        """Return the block schemes by which requests should name their blocks."""
        return self.prefixes.schemes()

    def check(self) -> None:
        """Assert the invariants of ledger and prefixes; called by tests and when idle."""
        self._ledger.check()
        self.prefixes.check()
        assert all(self._ledger.has(request_id) for request_id in self._sent)

    # Small things.

    def _presumed(self, view: EndpointView) -> float:
        return view.speed.prefill_tokens_per_s / self.time_scale

    def _decide(
        self, request: RouteRequest, candidates: Sequence[Candidate], attempt: int
    ) -> Decision:
        rng = tie_rng(self._options.seed, request.request_id, attempt)
        return decide(request, candidates, self._policy, rng, self._memory())

    def _room(self, view: EndpointView, engine_s: float) -> float:
        """Return the KV tokens that an endpoint may be given now; below zero when it is full."""
        load = self._ledger.load(view.endpoint_id, self._presumed(view))
        if load.inflight == 0:
            return float("inf")
        limits = self._options.hold
        if load.queued_ms(engine_s) >= limits.queue_ms:
            return -1.0
        return limits.kv_ratio * view.speed.kv_tokens - load.kv_tokens

    def _openings(self, engine_s: float) -> list[Opening]:
        openings = []
        for view in self._endpoints.ready():
            room = self._room(view, engine_s)
            if room > 0.0:
                speed = self._ledger.load(view.endpoint_id, self._presumed(view)).speed
                openings.append(Opening(view.endpoint_id, room, speed.fixed_ms, speed.per_token_ms))
        return openings

    def _candidate(
        self,
        view: EndpointView,
        request: RouteRequest,
        cached: Mapping[EndpointId, Cached],
        engine_s: float,
    ) -> Candidate:
        endpoint_id, speed = view.endpoint_id, view.speed
        load = self._ledger.load(endpoint_id, self._presumed(view))
        held = cached.get(endpoint_id, NOTHING)
        fit = load.speed
        loaded = self._endpoints.loaded(endpoint_id, request.model)
        return Candidate(
            endpoint_id,
            held.tokens,
            load.inflight,
            load.decoding,
            load.queued_ms(engine_s),
            load.kv_tokens,
            speed.kv_tokens,
            fit.fixed_ms,
            fit.per_token_ms,
            fit.per_pair_ms,
            (held.tokens - held.gpu_tokens) / speed.fetch_tokens_per_s * 1_000.0,
            0.0 if loaded else speed.adapter_load_ms,
            request.session is not None and self._sessions.get(request.session) == endpoint_id,
            self.prefixes.exact(endpoint_id, request),
        )
