"""The router of one gateway: endpoints, ledger and prefix estimate behind one choice. Pure.

One owner calls it, synchronously, with the time. The gateway and the twin use the same object.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from headrace.core.endpoint import EndpointView, Health
from headrace.core.errors import ModelNotFound
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from kvcache.estimate import PrefixEstimate
from router.catalog import DEFAULT_POLICY, make_policy
from router.decide import Decision, decide
from router.ledger import Ledger
from router.policy import Candidate


class Router:
    """Places requests on endpoints and keeps count of what is where.

    Args:
        policy: One of ``router.catalog.POLICIES``.
        seed: Of the generator that breaks ties.
        time_scale: Engine seconds per second of ``now_s``; not 1 only for simulated engines that
            outrun the clock. Policies weigh engine milliseconds against constants of their own,
            so a fleet at any scale is routed as one at 1 would be.

    """

    def __init__(
        self, policy: str = DEFAULT_POLICY, seed: int = 0, *, time_scale: float = 1.0
    ) -> None:
        assert time_scale > 0
        self.time_scale = time_scale
        self._policy = make_policy(policy)
        self._rng = Random(seed)
        self._endpoints: dict[EndpointId, EndpointView] = {}
        self._serving: dict[ModelName, tuple[EndpointView, ...]] = {}
        self._ledger = Ledger()
        self._estimate = PrefixEstimate()

    def set_endpoints(self, endpoints: Iterable[EndpointView]) -> None:
        """Replace the list of endpoints with the whole of the new one.

        An endpoint that went down, or vanished, is taken to have lost its cache.
        """
        views = {view.endpoint_id: view for view in endpoints}
        for endpoint_id in self._endpoints:
            view = views.get(endpoint_id)
            if view is None or view.health is Health.DOWN:
                self._estimate.removed(endpoint_id)
        self._endpoints = views
        serving: dict[ModelName, list[EndpointView]] = {}
        for endpoint_id in sorted(views):
            for model in views[endpoint_id].models:
                serving.setdefault(model, []).append(views[endpoint_id])
        self._serving = {model: tuple(found) for model, found in serving.items()}
        self._ledger.forget_idle(frozenset(views))

    def endpoint(self, endpoint_id: EndpointId) -> EndpointView:
        """Return the endpoint as last set; KeyError if it is not in the list."""
        return self._endpoints[endpoint_id]

    def endpoints(self) -> list[EndpointView]:
        """Return all endpoints, by id."""
        return [self._endpoints[e] for e in sorted(self._endpoints)]

    def models(self) -> list[ModelName]:
        """Return the names that some endpoint serves, whatever its health, sorted."""
        return sorted(self._serving)

    def choose(
        self, request: RouteRequest, now_s: float, exclude: frozenset[EndpointId] = frozenset()
    ) -> Decision:
        """Decide where ``request`` should go; reserves nothing.

        Args:
            request: The request to place.
            now_s: Monotonic seconds.
            exclude: Endpoints already tried, or resting after a failure.

        Raises:
            ModelNotFound: if no endpoint serves the model by that name.
            NoEndpoint: if those that do are down, draining or excluded.

        """
        views = self._serving.get(request.model)
        if views is None:
            known = ", ".join(self.models()) or "none yet"
            raise ModelNotFound(
                f"the model {request.model!r} does not exist; models served: {known}",
                field="model",
            )
        hits = self._estimate.longest_prefix(request.blocks)
        candidates = [
            self._candidate(view, request, hits.get(view.endpoint_id, 0), now_s * self.time_scale)
            for view in views
            if view.health is Health.READY and view.endpoint_id not in exclude
        ]
        return decide(request, candidates, self._policy, self._rng)

    def dispatched(self, request: RouteRequest, decision: Decision, now_s: float) -> None:
        """Reserve: ``request`` is being sent where ``decision`` says.

        Raises:
            ValueError: if a request with that id is already in flight.

        """
        endpoint_id = decision.endpoint_id
        candidate = decision.candidate
        engine_s = now_s * self.time_scale
        self._ledger.dispatched(request, endpoint_id, candidate.cached_tokens, engine_s)
        limit = max(1, int(candidate.kv_tokens / request.block_tokens))
        self._estimate.stored(endpoint_id, request.blocks, limit_blocks=limit)

    def first_token(self, request_id: RequestId, now_s: float) -> None:
        """Note that the first token of ``request_id`` came; later calls change nothing."""
        self._ledger.first_token(request_id, now_s * self.time_scale)

    def released(self, request_id: RequestId, now_s: float) -> None:
        """Release the reserve of ``request_id``, however it ended; harmless when there is none."""
        self._ledger.released(request_id, now_s * self.time_scale)

    def inflight(self, endpoint_id: EndpointId) -> int:
        """Return how many requests are in flight on ``endpoint_id``."""
        return self._ledger.inflight(endpoint_id)

    def check(self) -> None:
        """Assert the invariants of ledger and estimate; called by tests and when idle."""
        self._ledger.check()
        self._estimate.check()

    def _candidate(
        self, view: EndpointView, request: RouteRequest, hit_blocks: int, engine_s: float
    ) -> Candidate:
        presumed = view.speed.prefill_tokens_per_s / self.time_scale
        load = self._ledger.load(view.endpoint_id, presumed)
        return Candidate(
            endpoint_id=view.endpoint_id,
            # the last token is always computed, or there would be nothing to sample from
            cached_tokens=max(
                0.0, min(hit_blocks * request.block_tokens, request.prompt_tokens - 1.0)
            ),
            inflight=load.inflight,
            decoding=load.decoding,
            queued_ms=load.queued_ms(engine_s),
            resident_tokens=load.resident_tokens,
            kv_tokens=view.speed.kv_tokens,
            fixed_ms=load.speed.fixed_ms,
            per_token_ms=load.speed.per_token_ms,
        )
