"""Which adapters to load before anyone asks, and which to unload. Pure.

Popular adapters get more endpoints by themselves: a request goes where the adapter must be loaded
as soon as that costs less than the queue where it is. What is left to plan is what requests cannot
bring about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import EndpointView, Health, Role
from headrace.core.ids import EndpointId, ModelName
from router.adapters import AdapterBook
from router.endpoints import takes

ACTIONS_AT_ONCE: Final = 8
"""Most steps of one plan; the next one follows."""


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """Bounds of a plan.

    Attributes:
        per_endpoint: Most adapters that an endpoint is to know.
        park_after_s: Unload what nobody has asked an endpoint for in so long; None for never.

    """

    per_endpoint: int = 64
    park_after_s: float | None = None

    def room(self, view: EndpointView) -> int:
        """Return the most adapters that one endpoint is to know: it may have a bound of its own."""
        if view.adapter_room is None:
            return self.per_endpoint
        return min(self.per_endpoint, view.adapter_room)


@dataclass(frozen=True, slots=True)
class Step:
    """Have an endpoint load an adapter, or unload it."""

    endpoint_id: EndpointId
    name: ModelName
    load: bool


def plan(
    book: AdapterBook,
    views: Sequence[EndpointView],
    ours: frozenset[tuple[EndpointId, ModelName]],
    now_s: float,
    limits: AdapterLimits,
) -> list[Step]:
    """Return what should be done now; doing all of it and asking again returns nothing.

    Args:
        book: What is where.
        views: The endpoints.
        ours: What we had loaded; nothing else is unloaded.
        now_s: Engine seconds.
        limits: Bounds.

    """
    ready = [view for view in views if view.health is Health.READY]
    steps = _removed(book, ours, ready)
    steps += [step for spec in book.specs.values() for step in _fixed(book, spec, ready, limits)]
    for view in ready:
        steps += _cold(book, view, ours, now_s, limits)
    return steps[:ACTIONS_AT_ONCE]


def victim(
    book: AdapterBook,
    endpoint_id: EndpointId,
    ours: frozenset[tuple[EndpointId, ModelName]],
    now_s: float,
) -> ModelName | None:
    """Return the adapter to unload there to make room: the one asked for least recently.

    None where each is in use, pinned, or not ours to unload. One that is to have a fixed number of
    endpoints goes only if all others are such, too.
    """
    idle = [
        name
        for name in book.registered(endpoint_id)
        if (endpoint_id, name) in ours and _may_go(book, endpoint_id, name)
    ]

    def rank(name: ModelName) -> tuple[bool, float, str]:
        spec = book.spec(name)
        fixed = spec is not None and bool(spec.replicas)
        return fixed, -book.idle_s(endpoint_id, name, now_s), name

    return min(idle, key=rank, default=None)


def _may_go(book: AdapterBook, endpoint_id: EndpointId, name: ModelName) -> bool:
    spec = book.spec(name)
    pinned = spec is not None and spec.pinned
    return not pinned and not book.active(endpoint_id, name)


def _removed(
    book: AdapterBook,
    ours: frozenset[tuple[EndpointId, ModelName]],
    ready: Sequence[EndpointView],
) -> list[Step]:
    """Unload what is no longer listed, once its requests have ended."""
    here = {view.endpoint_id for view in ready}
    return [
        Step(endpoint_id, name, load=False)
        for endpoint_id, name in sorted(ours)
        if endpoint_id in here and book.spec(name) is None and not book.active(endpoint_id, name)
    ]


def _fixed(
    book: AdapterBook, spec: AdapterSpec, ready: Sequence[EndpointView], limits: AdapterLimits
) -> list[Step]:
    """Load a fixed number of replicas, where the fewest adapters are."""
    if not spec.replicas:
        return []
    able = [view for view in ready if spec.base in view.models and takes(view, spec)]
    able = [view for view in able if view.role is not Role.PREFILL]
    known = {view.endpoint_id: book.registered(view.endpoint_id) for view in able}
    room = {view.endpoint_id: limits.room(view) for view in able}
    missing = spec.replicas - sum(spec.name in names for names in known.values())
    free = [
        endpoint_id
        for endpoint_id, names in sorted(known.items(), key=lambda item: (len(item[1]), item[0]))
        if spec.name not in names and sum(map(book.is_adapter, names)) < room[endpoint_id]
    ]
    return [Step(endpoint_id, spec.name, load=True) for endpoint_id in free[: max(0, missing)]]


def _cold(
    book: AdapterBook,
    view: EndpointView,
    ours: frozenset[tuple[EndpointId, ModelName]],
    now_s: float,
    limits: AdapterLimits,
) -> list[Step]:
    """Unload what an endpoint has too much of, and what has long been idle."""
    endpoint_id, park_s = view.endpoint_id, limits.park_after_s
    mine = [name for name in book.registered(endpoint_id) if (endpoint_id, name) in ours]
    coldest = victim(book, endpoint_id, ours, now_s)
    if coldest is not None and len(mine) > limits.room(view):
        return [Step(endpoint_id, coldest, load=False)]
    steps = []
    for name in sorted(mine):
        spec = book.spec(name)
        if park_s is None or spec is None or spec.replicas:
            continue
        if _may_go(book, endpoint_id, name) and book.idle_s(endpoint_id, name, now_s) >= park_s:
            steps.append(Step(endpoint_id, name, load=False))
    return steps
