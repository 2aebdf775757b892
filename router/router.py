"""The router of one gateway: endpoints, ledger and prefixes behind one choice. Pure.

One owner calls it, synchronously, with the time. The gateway and the twin use the same object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import BlockScheme, EndpointView
from headrace.core.errors import ModelNotFound, NoEndpoint
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from router.adapters import AdapterBook
from router.candidates import Candidates, Sessions
from router.catalog import DEFAULT_POLICY, make_policy
from router.decide import Decision, decide, tie_rng
from router.disaggregation import prefill_half
from router.endpoints import Endpoints
from router.held import Held, HeldRequests
from router.ledger import Ledger, resident_tokens
from router.memory import memory_reader
from router.options import Options
from router.others import OtherReplicas
from router.policy import TIME_UNIT, Candidate
from router.prefixes import Prefixes
from router.races import Races, better_elsewhere
from router.reserve import ReserveObserver

__all__ = ["Options", "Router"]


@dataclass(slots=True)
class _Sent:
    """A request in flight: what was believed when it was sent."""

    request: RouteRequest
    endpoint_id: EndpointId
    cached_tokens: float
    sent_s: float  # engine seconds
    half_id: RequestId | None = None  # of its prompt's half, if another endpoint has that


class Router:
    """Places requests on endpoints and keeps count of what is where.

    Args:
        policy: One of ``router.catalog.POLICIES``.
        options: See there.
        observer: Hears of every reserve, to tell other gateway replicas; None for a single one.

    Attributes:
        prefixes: What endpoints hold; whoever follows KV events tells it.
        adapters: Which adapters they have; whoever loads and unloads them tells it.
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
        self.adapters = AdapterBook()
        self._policy = make_policy(policy)
        self._memory = memory_reader(self._policy)
        self._observer = observer
        self._endpoints = Endpoints()
        self._ledger = Ledger()
        self._held = HeldRequests(self._options.hold)
        self._sent: dict[RequestId, _Sent] = {}
        self._sessions = Sessions()
        self._races = Races(self._ledger)
        self._known = Candidates(
            self._endpoints,
            self._ledger,
            self.prefixes,
            sessions=self._sessions,
            adapters=self.adapters,
            time_scale=self._options.time_scale,
            splits=self._policy.unit == TIME_UNIT,
        )
        self.others = OtherReplicas(
            self._ledger, self.prefixes, self._endpoints, self._races, self._options.time_scale
        )

    def observed_by(self, observer: ReserveObserver) -> None:
        """Tell ``observer`` of every reserve from now on; there must be none yet."""
        assert not self._sent
        self._observer = observer

    # Endpoints.

    def set_adapters(self, adapters: Iterable[AdapterSpec]) -> None:
        """Replace the list of adapters that endpoints of their base model can be given."""
        self.adapters.set_specs(adapters)
        self._endpoints.set_adapters(self.adapters.specs)

    def set_endpoints(self, endpoints: Iterable[EndpointView], now_s: float = 0.0) -> None:
        """Replace the list of endpoints with the whole of the new one.

        An endpoint that went down, or vanished, is taken to have lost its cache. ``placed`` tells
        what the change means to requests that are held.
        """
        for endpoint_id in self._endpoints.set(endpoints):
            self.prefixes.gone(endpoint_id)
        self._ledger.forget_idle(self._endpoints.ids())
        self.adapters.set_endpoints(self._endpoints.all(), now_s * self.time_scale)
        for view in self._endpoints.all():
            if view.load is not None:
                at_s = view.load.at_s * self.time_scale
                load = self._known.load(view)
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

    def disaggregates(self, model: ModelName) -> bool:
        """Return whether some endpoint only computes prompts for a model, whatever its health."""
        return self._endpoints.disaggregates(model)

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
            tokens, limits = resident_tokens(request), self._options.hold
            if not any(self._known.has_room(request, v, limits, engine_s) for v in views):
                self._held.add(Held(request, exclude, engine_s, tokens, cached, attempt))
                return None
        candidates = self._known.choices(request, views, cached, exclude, engine_s)
        decision = self._decide(request, candidates, attempt)
        self.dispatched(request, decision, now_s, attempt=attempt)
        return decision

    def placed(self, now_s: float) -> list[tuple[RouteRequest, Decision | None]]:
        """Return the held requests that are to be sent now, reserved; call after every change.

        None instead of a decision: no endpoint is left that could serve it.
        """
        sent: list[tuple[RouteRequest, Decision | None]] = []
        engine_s = now_s * self.time_scale
        while (held := self._held.overdue(engine_s)) is not None:
            self._held.remove(held.request.request_id)
            sent.append((held.request, self._send_held(held, None, now_s)))
        while len(self._held) and (one := self._place_one(now_s)) is not None:
            sent.append(one)
        return sent

    def _place_one(self, now_s: float) -> tuple[RouteRequest, Decision | None] | None:
        """Send the first held request that an opening suits; None if there is none."""
        engine_s = now_s * self.time_scale
        openings = self._known.openings(self._options.hold, engine_s)
        for held in self._held.ranked(openings, self._known.admits, engine_s):
            fitting = self._known.fitting(held, openings)
            decision = self._send_held(held, fitting, now_s)
            if decision is not None:
                self._held.remove(held.request.request_id)
                return held.request, decision
        return None

    def _send_held(
        self, held: Held, only: frozenset[EndpointId] | None, now_s: float
    ) -> Decision | None:
        """Send a held request to one of ``only`` that suits it, or where it costs least at all."""
        request, attempt = held.request, held.attempt
        try:
            candidates = self.candidates(request, now_s, held.exclude)
            decision = self._decide(request, candidates, attempt)
            if only is not None and decision.endpoint_id not in only:
                fitting = [c for c in candidates if c.endpoint_id in only]
                least, decision = decision, self._decide(request, fitting, attempt)
                more_ms = decision.ranking[0].cost - least.ranking[0].cost
                if more_ms > held.waited_ms(now_s * self.time_scale):
                    return None
        except (ModelNotFound, NoEndpoint):
            return None
        self.dispatched(request, decision, now_s, attempt=attempt)
        return decision

    def recalled(
        self, now_s: float, exclude: frozenset[EndpointId] = frozenset()
    ) -> list[RouteRequest]:
        """Return the requests to call back and place again; call after news of other replicas.

        They have had no first token, and cost less elsewhere now that it is known what another
        replica had sent before them. None is named that is neither whole nor at its first attempt.
        """
        lost: list[RouteRequest] = []
        for runner, own in self._races.take():
            candidates = self.candidates(runner.request, now_s, exclude)
            if better_elsewhere(runner, own, candidates, self._policy):
                lost.append(runner.request)
        return lost

    def stranded(self) -> list[RouteRequest]:
        """Take out and return the held requests that no ready endpoint could serve any more."""
        return self._held.stranded(self._endpoints.may_serve)

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
        views = self._endpoints.that_may_serve(request, exclude)
        cached = self.prefixes.cached(request, engine_s)
        return self._known.choices(request, views, cached, exclude, engine_s)

    # Keeping count.

    def dispatched(
        self, request: RouteRequest, decision: Decision, now_s: float, *, attempt: int = 0
    ) -> None:
        """Reserve: ``request`` is being sent where ``decision`` says, after ``attempt`` others.

        Raises:
            ValueError: if a request with that id is already in flight.

        """
        endpoint_id, candidate = decision.endpoint_id, decision.candidate
        if candidate.prefill_id is None:
            self._reserve(request, endpoint_id, candidate.cached_tokens, now_s)
            if not attempt and self._policy.unit == TIME_UNIT:
                self._races.sent(request, candidate, now_s * self.time_scale)
        else:
            whole = float(request.prompt_tokens)
            half = prefill_half(request)
            self._reserve(request, endpoint_id, whole, now_s)
            sent = self._sent[request.request_id]
            sent.half_id, sent.cached_tokens = half.request_id, 0.0  # it is not asked for its own
            self._reserve(half, candidate.prefill_id, candidate.cached_tokens, now_s)
        self._sessions.went(request.session, endpoint_id)

    def _reserve(
        self, request: RouteRequest, endpoint_id: EndpointId, cached_tokens: float, now_s: float
    ) -> None:
        engine_s = now_s * self.time_scale
        load_ms = self.adapters.dispatched(endpoint_id, request.model, engine_s)
        reserve = self._ledger.dispatched(request, endpoint_id, cached_tokens, engine_s, load_ms)
        self._sent[request.request_id] = _Sent(request, endpoint_id, cached_tokens, engine_s)
        kv_tokens = self._endpoints.get(endpoint_id).speed.kv_tokens
        self.prefixes.sent(endpoint_id, request, kv_tokens, engine_s)
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

    def prefilled(self, request_id: RequestId, now_s: float, usage: Usage | None = None) -> None:
        """Note that the first of a pair has computed a prompt: the second takes over now.

        Changes nothing for a request that is not split. ``usage`` is as for ``released``.
        """
        sent = self._sent.get(request_id)
        if sent is None or sent.half_id is None:
            return
        self.first_token(sent.half_id, now_s)
        self.released(sent.half_id, now_s, usage)
        sent.half_id = None
        if not sent.request.first_token_seen:
            self.first_token(request_id, now_s)

    def first_token(self, request_id: RequestId, now_s: float) -> None:
        """Note that the first token of ``request_id`` came; later calls change nothing."""
        self._ledger.first_token(request_id, now_s * self.time_scale)
        self._races.over(request_id)
        if self._observer is not None:
            self._observer.on_first_token(request_id, now_s)

    def released(self, request_id: RequestId, now_s: float, usage: Usage | None = None) -> None:
        """Release the reserve of ``request_id``, however it ended; harmless when there is none.

        ``usage`` is what the engine reported, if it did: it corrects what is believed of it.
        """
        unbegun = usage is None and self._ledger.queued(request_id) is not None
        self._ledger.released(request_id, now_s * self.time_scale)
        self._races.over(request_id)
        sent = self._sent.pop(request_id, None)
        if sent is not None and unbegun and sent.request.first_token_seen:
            self.prefixes.unsent(sent.endpoint_id, sent.request, sent.cached_tokens)
        if sent is not None:
            engine_s = now_s * self.time_scale
            self.adapters.released(sent.endpoint_id, sent.request.model, sent.sent_s, engine_s)
        if sent is not None and usage is not None:
            self.prefixes.answered(sent.endpoint_id, sent.request, sent.cached_tokens, usage)
        if sent is not None and sent.half_id is not None:
            self.released(sent.half_id, now_s)
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
        self.adapters.check()
        assert all(self._ledger.has(request_id) for request_id in self._sent)

    def _decide(
        self, request: RouteRequest, candidates: Sequence[Candidate], attempt: int
    ) -> Decision:
        rng = tie_rng(self._options.seed, request.request_id, attempt)
        return decide(request, candidates, self._policy, rng, self._memory())
