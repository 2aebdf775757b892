"""Which adapters endpoints have, and what having one more there costs. Pure.

An engine knows adapters by name and has a few of them in slots on the GPU at a time. It gives the
slot used least recently to the next, but none whose adapter has a request running, and leaves a
request waiting that finds no slot (vLLM calls it deferred). No engine tells what lies in its slots,
so that is estimated from what was sent there.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import EndpointView, Health
from headrace.core.ids import EndpointId, ModelName

DEMAND_S: Final = 60.0
"""Engine seconds over which an adapter's demand is averaged: long against a reply."""

PRESUMED_REPLY_MS: Final = 2_000.0
"""How long a request holds its adapter's slot before any has ended: 200 tokens at 10 ms."""

LEARN: Final = 0.1
"""Weight of a new observation of a load or of a reply's length."""

PAD_MS_PER_RANK: Final = 0.02
"""What a request costs for each rank that an endpoint's slots are wider than its adapter: kernels
compute all of the widest rank (CaraServe's BGMV model: time grows with batch times greatest rank).
About 1 us per decode step and rank over 20 steps: a preference among equals, no more."""

STALL_WEIGHT: Final = 1.0
"""Requests that a load holds up beside the one that needs it: the engine does nothing else
meanwhile. In the twin (8 engines of 16 slots, 1,000 adapters, Zipf 1, 20 and 35 requests/s) 1 saves
8 % of the loads over 0 at the same mean and p99 of added latency; 2 saves 5 % more and costs 10 %
of p99."""

GRACE_S: Final = 10.0
"""How long an adapter that we had loaded counts as there though the engine's list lacks it: the
list may have been read before. Longer than any period of probing that makes sense."""


@dataclass(frozen=True, slots=True)
class AdapterCost:
    """What a request for an adapter costs at one endpoint, in engine milliseconds.

    Attributes:
        load_ms: Until the adapter is in a slot there: loading, and waiting for a slot.
        others_ms: What that costs others: the adapter that is evicted for it must come back.

    """

    load_ms: float = 0.0
    others_ms: float = 0.0


FREE: Final = AdapterCost()


@dataclass(slots=True)
class _Endpoint:
    """One endpoint's adapters; ``slots`` is None where nobody knows how many it has."""

    slots: int | None
    swap_ms: float
    presumed_ms: float
    rank: int | None
    listed: frozenset[ModelName] = frozenset()
    loaded: dict[ModelName, float] = field(default_factory=dict)  # by us, and when
    loading: dict[ModelName, float] = field(default_factory=dict)  # since when
    resident: OrderedDict[ModelName, float] = field(default_factory=OrderedDict)  # last used
    active: dict[ModelName, int] = field(default_factory=dict)  # requests in flight
    used: dict[ModelName, float] = field(default_factory=dict)  # when last asked for
    load_ms: float | None = None
    reply_ms: float = PRESUMED_REPLY_MS

    def has(self, name: ModelName) -> bool:
        """Return whether it knows the adapter."""
        return name in self.listed or name in self.loaded

    def full(self, name: ModelName) -> bool:
        """Return whether every slot has requests of other adapters."""
        return self.slots is not None and name not in self.active and len(self.active) >= self.slots

    def victim(self, name: ModelName) -> ModelName | None:
        """Return the adapter that would lose its slot to ``name``, None where one is free."""
        if self.slots is None or name in self.resident or len(self.resident) < self.slots:
            return None
        return next((one for one in self.resident if one not in self.active), None)

    def slot_ms(self) -> float:
        """Return the expected time until all requests of some adapter have ended.

        Each is taken to end at the same rate whatever its age, so the n of one adapter take the
        n-th harmonic number of replies; those that already wait for a slot come first.
        """
        assert self.slots is not None
        running = list(self.active.values())[: self.slots]
        ahead = max(0, len(self.active) - self.slots)
        per_reply = sum(1.0 / (0.5772 + math.log(count) + 0.5 / count) for count in running)
        return (1 + ahead) * self.reply_ms / max(1e-9, per_reply)


class AdapterBook:
    """The adapters there are and where they are. One owner, called with the engines' time."""

    def __init__(self) -> None:
        self._specs: dict[ModelName, AdapterSpec] = {}
        self._endpoints: dict[EndpointId, _Endpoint] = {}
        self._adapters: frozenset[ModelName] = frozenset()
        self._demand: dict[ModelName, tuple[float, float]] = {}  # per second, and when

    # What there is.

    def set_specs(self, specs: Iterable[AdapterSpec]) -> None:
        """Replace the whole list of adapters that may be loaded."""
        self._specs = {spec.name: spec for spec in specs}
        self._demand = {name: rate for name, rate in self._demand.items() if self.is_adapter(name)}

    @property
    def specs(self) -> Mapping[ModelName, AdapterSpec]:
        """The adapters that may be loaded, by name."""
        return self._specs

    def spec(self, name: ModelName) -> AdapterSpec | None:
        """Return the adapter of that name, None if it is none that we may load."""
        return self._specs.get(name)

    def set_endpoints(self, views: Sequence[EndpointView], now_s: float) -> None:
        """Take the endpoints and the adapters that they say they have."""
        self._endpoints = {view.endpoint_id: self._known(view, now_s) for view in views}
        self._adapters = frozenset(
            name for view in views for name in (*view.loadable, *adapters_of(view))
        )

    def is_adapter(self, name: ModelName) -> bool:
        """Return whether the name is an adapter's, as far as anybody says."""
        return name in self._specs or name in self._adapters

    def has(self, endpoint_id: EndpointId, name: ModelName) -> bool:
        """Return whether an endpoint knows the adapter, and need not load it first."""
        known = self._endpoints.get(endpoint_id)
        return known is not None and known.has(name)

    def registered(self, endpoint_id: EndpointId) -> frozenset[ModelName]:
        """Return the adapters that an endpoint knows or is loading."""
        known = self._endpoints.get(endpoint_id)
        if known is None:
            return frozenset()
        return frozenset({*known.listed, *known.loaded, *known.loading})

    def active(self, endpoint_id: EndpointId, name: ModelName) -> int:
        """Return how many requests for the adapter are in flight there."""
        known = self._endpoints.get(endpoint_id)
        return 0 if known is None else known.active.get(name, 0)

    def rate(self, name: ModelName, now_s: float) -> float:
        """Return requests for an adapter per second, lately."""
        rate, at_s = self._demand.get(name, (0.0, 0.0))
        return rate * math.exp(min(0.0, (at_s - now_s) / DEMAND_S))

    def idle_s(self, endpoint_id: EndpointId, name: ModelName, now_s: float) -> float:
        """Return for how long nobody has asked an endpoint for an adapter; infinite if never."""
        known = self._endpoints.get(endpoint_id)
        last_s = None if known is None else known.used.get(name, known.loaded.get(name))
        return math.inf if last_s is None else max(0.0, now_s - last_s)

    # What it costs.

    def fits(self, endpoint_id: EndpointId, name: ModelName) -> bool:
        """Return whether a request would not have to wait for a slot there."""
        known = self._endpoints.get(endpoint_id)
        return known is None or not self.is_adapter(name) or not known.full(name)

    def cost(self, endpoint_id: EndpointId, name: ModelName, now_s: float) -> AdapterCost:
        """Return what a request for ``name`` costs there; nothing for a base model."""
        known = self._endpoints.get(endpoint_id)
        if known is None or not self.is_adapter(name):
            return FREE
        load_ms = others_ms = 0.0
        if name in known.loading:
            waited_ms = (now_s - known.loading[name]) * 1_000.0
            load_ms = max(0.0, self._load_ms(known) - waited_ms)
        elif not known.has(name):
            load_ms = self._load_ms(known)
        if known.full(name):
            load_ms += known.slot_ms()
        if known.slots is not None and name not in known.resident:
            load_ms += known.swap_ms
            others_ms += STALL_WEIGHT * known.swap_ms
            others_ms += self._eviction_ms(known, known.victim(name), now_s)
        spec = self._specs.get(name)
        if spec is not None and spec.rank is not None and known.rank is not None:
            others_ms += PAD_MS_PER_RANK * max(0, known.rank - spec.rank)
        return AdapterCost(load_ms, others_ms)

    def _eviction_ms(self, known: _Endpoint, victim: ModelName | None, now_s: float) -> float:
        """Return the expected cost of bringing back what is evicted.

        It will be, if it is asked for again in as long as slots last here, which is about as long
        as what goes next has lain idle (Che's approximation: one such time for all of a cache).
        Where others have it too, most requests find it there.
        """
        if victim is None:
            return 0.0
        copies = sum(victim in other.resident for other in self._endpoints.values())
        idle_s = max(0.0, now_s - known.resident[victim])
        again = 1.0 - math.exp(-self.rate(victim, now_s) / max(1, copies) * idle_s)
        return known.swap_ms * again / max(1, copies)

    # What happens.

    def dispatched(self, endpoint_id: EndpointId, name: ModelName, now_s: float) -> float:
        """Note a request sent there; return the milliseconds it is expected to wait for a load."""
        known = self._endpoints.get(endpoint_id)
        if known is None or not self.is_adapter(name):
            return 0.0
        self._demand[name] = (self.rate(name, now_s) + 1.0 / DEMAND_S, now_s)
        load_ms = 0.0
        if not known.has(name) and name not in known.loading:
            known.loading[name] = now_s
            load_ms += self._load_ms(known)
        if known.slots is not None and name not in known.resident:
            load_ms += known.swap_ms
            victim = known.victim(name)
            if victim is not None:
                del known.resident[victim]
        known.resident[name] = known.used[name] = now_s
        known.resident.move_to_end(name)
        known.active[name] = known.active.get(name, 0) + 1
        return load_ms

    def released(
        self, endpoint_id: EndpointId, name: ModelName, since_s: float, now_s: float
    ) -> None:
        """Note that a request sent there at ``since_s`` has ended."""
        known = self._endpoints.get(endpoint_id)
        if known is None or name not in known.active:
            return
        known.active[name] -= 1
        if known.active[name] == 0:
            del known.active[name]
        took_ms = max(0.0, now_s - since_s) * 1_000.0
        known.reply_ms += LEARN * (took_ms - known.reply_ms)
        known.used[name] = now_s
        while known.slots is not None and len(known.resident) > max(known.slots, len(known.active)):
            idle = next(one for one in known.resident if one not in known.active)
            del known.resident[idle]

    def loaded(
        self, endpoint_id: EndpointId, name: ModelName, now_s: float, took_ms: float | None = None
    ) -> None:
        """Note that an endpoint knows an adapter now; ``took_ms`` if it had to be loaded."""
        known = self._endpoints.get(endpoint_id)
        if known is None:
            return
        known.loading.pop(name, None)
        known.loaded[name] = now_s
        if took_ms is not None:
            before = known.presumed_ms if known.load_ms is None else known.load_ms
            weight = 3 * LEARN if known.load_ms is None else LEARN
            known.load_ms = before + weight * (took_ms - before)

    def unloaded(self, endpoint_id: EndpointId, name: ModelName) -> None:
        """Note that an endpoint has no such adapter: unloaded, or never loaded after all."""
        known = self._endpoints.get(endpoint_id)
        if known is None:
            return
        known.listed -= {name}
        for book in (known.loaded, known.loading, known.resident, known.used):
            book.pop(name, None)

    def check(self) -> None:
        """Assert that the bounds hold; called by tests."""
        for known in self._endpoints.values():
            assert all(count > 0 for count in known.active.values())
            if known.slots is not None:
                assert len(known.resident) <= max(known.slots, len(known.active))

    def _load_ms(self, known: _Endpoint) -> float:
        return known.presumed_ms if known.load_ms is None else known.load_ms

    def _known(self, view: EndpointView, now_s: float) -> _Endpoint:
        speed = view.speed
        known = self._endpoints.get(view.endpoint_id)
        if known is None or view.health is Health.DOWN:  # a new life begins with empty slots
            active = {} if known is None else known.active
            known = _Endpoint(None, 0.0, 0.0, None, active=active)
        known.slots, known.rank = view.adapter_slots, view.adapter_rank
        known.swap_ms, known.presumed_ms = speed.adapter_swap_ms, speed.adapter_load_ms
        known.listed = frozenset(view.models)
        for name in [n for n, at_s in known.loaded.items() if now_s - at_s > GRACE_S]:
            if name not in known.listed:  # it was restarted, or somebody else unloaded it
                del known.loaded[name]
                known.resident.pop(name, None)
        return known


def adapters_of(view: EndpointView) -> list[ModelName]:
    """Return the names that an endpoint says are adapters."""
    return [
        name
        for name, files in zip(view.models, view.files, strict=False)
        if files is not None and files.parent is not None
    ]
