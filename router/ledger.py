"""What we have in flight, per endpoint: the load signal that is never stale. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from headrace.core.endpoint import EngineLoad
from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.flow import Flow
from router.learning import Computed, Freed, Learning
from router.reserve import Reserve
from router.slots import Slots
from router.speed import PrefillSpeed, token_pairs

PRESUMED_OUTPUT_TOKENS: Final = 256
"""KV room reserved for the reply of a request whose client set no cap; INV-9 forbids knowing it."""

PRESUMED_PROMPT_TOKENS: Final = 1_024
"""Uncached prompt tokens of a request that others sent and we know only from the engine's count."""

SHARED_WEIGHT: Final = 0.2
"""Weight of a new observation of how much KV the requests of an endpoint share."""

SHARED_BOUNDS: Final = (0.05, 1.1)
"""Bounds of that share: KV used over the sum of what each request would need alone."""


@dataclass(slots=True)
class _Entry:
    """One request in flight."""

    endpoint_id: EndpointId
    miss_tokens: float
    miss_pairs: float
    resident_tokens: float
    dispatched_s: float
    silent: bool = False
    decoding: bool = False
    beside_tokens: float = 0.0  # KV tokens of those already there when it was sent
    load_ms: float = 0.0  # what it waits for its adapter, and all behind it with it
    loading: bool = False  # waits for its adapter too, so that it says nothing of prompts

    @property
    def fetched(self) -> bool:
        """Whether its prompt comes computed from another endpoint, so that it never queues here."""
        return self.miss_tokens == 0.0


@dataclass(slots=True)
class _Ahead:
    """What is queued: when the oldest will be computed, and how long the others take after it.

    ``silent``: the oldest will not show its first token.
    """

    due_s: float
    rest_ms: float
    silent: bool


@dataclass(frozen=True, slots=True)
class Queued:
    """What a request takes of its endpoint that waits there for its first token.

    ``work_ms`` is its prompt's, ``kv_tokens`` what it will hold as far as it shares nothing.
    """

    work_ms: float
    kv_tokens: float


def resident_tokens(request: RouteRequest) -> float:
    """Return the KV tokens a request will need: its prompt and what its reply may come to."""
    output = request.max_output_tokens or PRESUMED_OUTPUT_TOKENS
    return request.prompt_tokens + min(output, PRESUMED_OUTPUT_TOKENS)


class EndpointLoad:
    """The requests in flight on one endpoint, in the order they were sent.

    Prefill is taken to be first come, first served, which is vLLM's default: ``queued`` holds those
    without a first token, oldest first, and only the oldest can be partly computed. Those behind it
    are computed in the steps that its tokens leave room in, so a step's fixed time counts once.
    """

    def __init__(self, speed: PrefillSpeed) -> None:
        self.learning = Learning(speed)
        self.inflight = 0
        self.decoding = 0
        self.resident_tokens = 0.0
        self._queued: OrderedDict[RequestId, _Entry] = OrderedDict()
        self._queued_tokens = 0.0
        self._queued_pairs = 0.0
        self._loading_ms = 0.0
        self._progress_s = 0.0
        self._ahead: _Ahead | None = None  # worked out once for many decisions
        self._shared_ratio = 1.0
        self._strangers = (0, 0)
        self._strangers_waiting = 0
        self._reported_s = -1.0
        self._flow = Flow()
        self._slots = Slots()

    def batch(self, sent_per_ms: float, slots: int | None) -> tuple[float, float]:
        """Return the milliseconds until one more request has a place in the batch, and its use.

        Use is requests in flight over places, and 0 while nobody knows how many there are. Those
        that run must end first, and they are expected to end as fast as others were sent.

        Args:
            sent_per_ms: The first of ``rates``.
            slots: Requests that it computes at once; None where nobody said.

        """
        slots = slots or self._slots.seen
        if slots is None:
            return 0.0, 0.0
        more = self.inflight + 1 - slots
        wait_ms = more / sent_per_ms if more > 0 and sent_per_ms > 0.0 else 0.0
        return wait_ms, self.inflight / slots

    def rates(self, now_s: float) -> tuple[float, float]:
        """Return requests per millisecond sent here, and milliseconds of work per millisecond."""
        return self._flow.rates(now_s)

    @property
    def speed(self) -> PrefillSpeed:
        """How fast it computes prompts, as learned."""
        return self.learning.speed

    def queued(self, request_id: RequestId) -> Queued | None:
        """Return what a request takes of this endpoint; None once it has had its first token."""
        entry = self._queued.get(request_id)
        if entry is None:
            return None
        work_ms = self.speed.work_ms(entry.miss_tokens, entry.miss_pairs) + entry.load_ms
        return Queued(work_ms, entry.resident_tokens * self._shared_ratio)

    @property
    def kv_tokens(self) -> float:
        """KV tokens that the requests in flight hold or will need, as far as they do not share."""
        return self.resident_tokens * self._shared_ratio

    def reported(self, load: EngineLoad, kv_tokens: int) -> None:
        """Take an engine's own report into account; an old one changes nothing.

        It shows two things that our own count cannot: requests of others (those it counts beyond
        ours in two reports running, since the two counts are never of the same moment), and how
        much of their KV the requests share.
        """
        if load.at_s <= self._reported_s:
            return
        self._reported_s = load.at_s
        self._slots.reported(load.running, load.waiting)
        strangers = max(0, load.running + load.waiting - self.inflight)
        self._strangers = (self._strangers[1], strangers)
        self._strangers_waiting = min(*self._strangers, load.waiting)
        if load.waiting == 0 and self.inflight >= 2 and self.resident_tokens > 0.0:
            seen = load.kv_used_ratio * kv_tokens / self.resident_tokens
            low, high = SHARED_BOUNDS
            seen = min(high, max(low, seen))
            self._shared_ratio += SHARED_WEIGHT * (seen - self._shared_ratio)

    def queued_ms(self, now_s: float) -> float:
        """Return the expected milliseconds until all that is queued here has been computed."""
        others_ms = 0.0
        if self._strangers_waiting:
            others_ms = self._strangers_waiting * self.speed.ms(PRESUMED_PROMPT_TOKENS, 0.0)
        while self._queued:
            ahead = self._ahead or self._look_ahead()
            left_ms = (ahead.due_s - now_s) * 1_000.0
            if left_ms > 0.0 or not ahead.silent:
                return others_ms + max(0.0, left_ms) + ahead.rest_ms
            # it will not show its first token, so it is taken for computed when its time is up
            request_id, oldest = next(iter(self._queued.items()))
            self._computed(request_id, oldest, ahead.due_s)
            self.learning.happened(Freed(), ahead.due_s)
        return others_ms

    def _look_ahead(self) -> _Ahead:
        """Say when the oldest in the queue, which is not empty, is due, and what comes then."""
        oldest = next(iter(self._queued.values()))
        oldest_ms = self.speed.ms(oldest.miss_tokens, oldest.miss_pairs) + oldest.load_ms
        rest = self._queued_tokens - oldest.miss_tokens
        rest_ms = self.speed.work_ms(rest, self._queued_pairs - oldest.miss_pairs)
        rest_ms += self._loading_ms - oldest.load_ms
        since_s = max(self._progress_s, oldest.dispatched_s)
        self._ahead = _Ahead(since_s + oldest_ms / 1_000.0, max(0.0, rest_ms), oldest.silent)
        return self._ahead

    def measured(self, speed: PrefillSpeed) -> None:
        """Begin the learning of its speed anew."""
        self.learning.speed = speed
        self._ahead = None

    def sent(self, request_id: RequestId, entry: _Entry) -> None:
        """Add a request just sent here."""
        self._flow.sent(self.speed.work_ms(entry.miss_tokens, entry.miss_pairs), entry.dispatched_s)
        self.inflight += 1
        entry.beside_tokens = self.kv_tokens
        self.resident_tokens += entry.resident_tokens
        if entry.fetched:
            return
        self._ahead = None
        self._queued[request_id] = entry
        self._queued_tokens += entry.miss_tokens
        self._queued_pairs += entry.miss_pairs
        self._loading_ms += entry.load_ms

    def first_token(self, request_id: RequestId, entry: _Entry, now_s: float) -> None:
        """Move a request from queued to decoding, and learn from the time it took."""
        if entry.fetched and not entry.decoding:
            entry.decoding = True
            self.decoding += 1
        if request_id not in self._queued:
            return
        what: Computed | Freed = Freed()
        if not entry.loading:
            what = Computed(
                entry.miss_tokens, entry.miss_pairs, entry.beside_tokens, entry.dispatched_s
            )
        self.learning.happened(what, now_s)
        self._computed(request_id, entry, now_s)

    def _computed(self, request_id: RequestId, entry: _Entry, at_s: float) -> None:
        self._unqueue(request_id, entry)
        entry.decoding = True
        self.decoding += 1
        self._progress_s = at_s

    def _unqueue(self, request_id: RequestId, entry: _Entry) -> None:
        del self._queued[request_id]
        self._queued_tokens -= entry.miss_tokens
        self._queued_pairs -= entry.miss_pairs
        self._loading_ms -= entry.load_ms
        self._ahead = None

    def ended(self, request_id: RequestId, entry: _Entry, now_s: float) -> None:
        """Take a request out, whether it had its first token or not."""
        self._slots.ended()
        self.inflight -= 1
        self.resident_tokens -= entry.resident_tokens
        if entry.decoding:
            self.decoding -= 1
        elif request_id in self._queued:
            oldest = next(iter(self._queued)) == request_id
            if oldest:  # the next one starts now
                self._progress_s = max(self._progress_s, now_s)
            self.learning.happened(Freed(frees=oldest, left=not entry.silent), now_s)
            self._unqueue(request_id, entry)
        if self.inflight == 0:  # float sums drift; an idle endpoint is exactly empty
            self.resident_tokens = self._queued_tokens = self._queued_pairs = 0.0
            self._loading_ms = 0.0


class Ledger:
    """Every request in flight and the load it puts on its endpoint. One owner."""

    def __init__(self) -> None:
        self._entries: dict[RequestId, _Entry] = {}
        self._loads: dict[EndpointId, EndpointLoad] = {}
        self._late_s = 0.0

    def late(self, most_s: float) -> None:
        """Learn how late news of other replicas come, in engine seconds."""
        self._late_s = most_s
        for load in self._loads.values():
            load.learning.late_s = most_s

    def load(self, endpoint_id: EndpointId, presumed_tokens_per_s: float) -> EndpointLoad:
        """Return the load of ``endpoint_id``, made when first asked for.

        Another presumption than before begins the learning of its speed anew: the probe has
        measured it, which it does when an endpoint comes up, or comes back.
        """
        load = self._loads.get(endpoint_id)
        if load is None:
            load = self._loads[endpoint_id] = EndpointLoad(PrefillSpeed(presumed_tokens_per_s))
            load.learning.late_s = self._late_s
        elif load.speed.presumed_tokens_per_s != presumed_tokens_per_s:
            load.measured(PrefillSpeed(presumed_tokens_per_s))
        return load

    def has(self, request_id: RequestId) -> bool:
        """Return whether the request is in flight."""
        return request_id in self._entries

    def inflight(self, endpoint_id: EndpointId) -> int:
        """Return how many requests are in flight on ``endpoint_id``."""
        load = self._loads.get(endpoint_id)
        return 0 if load is None else load.inflight

    def dispatched(
        self,
        request: RouteRequest,
        endpoint_id: EndpointId,
        cached_tokens: float,
        now_s: float,
        load_ms: float = 0.0,
    ) -> Reserve:
        """Enter ``request`` as sent to ``endpoint_id``, whose load must have been asked for.

        The last token of a prompt is always computed, so ``cached_tokens`` of the whole prompt
        means that another endpoint computes it and this one fetches it.

        Raises:
            ValueError: if a request with that id is already in flight.

        """
        miss_tokens = max(0.0, request.prompt_tokens - cached_tokens)
        entry = _Entry(
            endpoint_id,
            miss_tokens=miss_tokens,
            miss_pairs=token_pairs(miss_tokens, cached_tokens),
            resident_tokens=resident_tokens(request),
            dispatched_s=now_s,
            silent=not request.first_token_seen,
            load_ms=load_ms,
            loading=load_ms > 0.0,
        )
        self._enter(request.request_id, entry)
        return Reserve(
            request.request_id,
            endpoint_id,
            miss_tokens,
            entry.resident_tokens,
            now_s,
            silent=entry.silent,
            loading=entry.loading,
        )

    def dispatched_elsewhere(self, request_id: RequestId, reserve: Reserve) -> None:
        """Enter what another gateway replica has in flight; the id must say whose it is.

        The endpoint's load must have been asked for.

        Raises:
            ValueError: as ``dispatched``.

        """
        entry = _Entry(
            reserve.endpoint_id,
            reserve.miss_tokens,
            token_pairs(
                reserve.miss_tokens, max(0.0, reserve.resident_tokens - reserve.miss_tokens)
            ),
            reserve.resident_tokens,
            reserve.dispatched_s,
            silent=reserve.silent,
            loading=reserve.loading or reserve.decoding,
        )
        self._enter(request_id, entry)
        if reserve.decoding:
            self.first_token(request_id, reserve.dispatched_s)

    def _enter(self, request_id: RequestId, entry: _Entry) -> None:
        if request_id in self._entries:
            raise ValueError(f"request {request_id!r} is already in flight")
        self._entries[request_id] = entry
        self._loads[entry.endpoint_id].sent(request_id, entry)

    def queued(self, request_id: RequestId) -> Queued | None:
        """Return what a request takes of its endpoint while it waits for its first token."""
        entry = self._entries.get(request_id)
        return None if entry is None else self._loads[entry.endpoint_id].queued(request_id)

    def first_token(self, request_id: RequestId, now_s: float) -> None:
        """Note the first token of a request in flight; repeats and strangers are ignored."""
        entry = self._entries.get(request_id)
        if entry is not None and not entry.decoding:
            self._loads[entry.endpoint_id].first_token(request_id, entry, now_s)

    def released(self, request_id: RequestId, now_s: float) -> EndpointId | None:
        """Take a request out and return where it was; None if it was not in flight."""
        entry = self._entries.pop(request_id, None)
        if entry is None:
            return None
        self._loads[entry.endpoint_id].ended(request_id, entry, now_s)
        return entry.endpoint_id

    def forget_idle(self, keep: frozenset[EndpointId]) -> None:
        """Drop the loads of endpoints not in ``keep`` that have nothing in flight."""
        for endpoint_id in [e for e in self._loads if e not in keep]:
            if self._loads[endpoint_id].inflight == 0:
                del self._loads[endpoint_id]

    def check(self) -> None:
        """Assert that every load is the sum of its entries (INV-3 follows when none is left)."""
        for endpoint_id, load in self._loads.items():
            mine = [e for e in self._entries.values() if e.endpoint_id == endpoint_id]
            assert load.inflight == len(mine)
            assert load.decoding == sum(e.decoding for e in mine)
            assert abs(load.resident_tokens - sum(e.resident_tokens for e in mine)) < 1e-3
            assert load.queued_ms(0.0) >= 0.0
