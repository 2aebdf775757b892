"""What others do with adapters: AIBrix's ``leastAdapters``, and no placement at all. Pure."""

from __future__ import annotations

from collections import Counter

from typing_extensions import override

from bench.rivals.rival import Choice, Known, Rule
from headrace.core.ids import ModelName
from headrace.core.request import RouteRequest


class LeastAdapters(Rule):
    """Each adapter on the endpoint that had the fewest when it was first seen, and on no other.

    Requests go to the pods that have it: there is one. AIBrix places when the ``ModelAdapter`` is
    created; here the first request does that, so that popular adapters, which come first, are
    spread evenly, which is the better for it.

    Source: pkg/controller/modeladapter/scheduling of vllm-project/aibrix (``leastAdapters`` is the
    default); ``replicas`` may be 1, or unset for all pods (#1675, #1742).
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._placed: dict[ModelName, int] = {}
        self._adapters: Counter[int] = Counter()

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        index = self._placed.get(request.model)
        if index is None:
            index = self._known.lowest([self._adapters[i] for i in range(self._known.size)])
            self._placed[request.model] = index
            self._adapters[index] += 1
        return Choice(index)


class LoadedEverywhere(Rule):
    """Least requests, every adapter known to every engine, each engine's own LRU of slots.

    AIBrix with ``replicas`` unset, or vLLM behind any load balancer.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        return Choice(self._known.lowest(self._known.counts()))


class AffinityFirst(Rule):
    """Where the adapter is in a slot, else where one is free; the least loaded of several.

    The form of llm-d's LoRA affinity (1.0 where it is active, 0.8 where there is room, 0 where it
    is full), with requests in flight to break ties. Its weight among llm-d's other scorers is not
    modelled. It knows what slots hold from its own dispatches, at once; in reality from scrapes.
    """

    SLOTS = 16

    def __init__(self, known: Known) -> None:
        self._known = known
        self._slots: list[dict[ModelName, None]] = [{} for _ in range(known.size)]

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        counts = self._known.counts()
        costs = [
            (-self._score(slots, request.model), counts[i]) for i, slots in enumerate(self._slots)
        ]
        best = min(costs)
        index = self._known.rng.choice([i for i, cost in enumerate(costs) if cost == best])
        slots = self._slots[index]
        slots.pop(request.model, None)
        slots[request.model] = None
        if len(slots) > self.SLOTS:
            del slots[next(iter(slots))]
        return Choice(index)

    def _score(self, slots: dict[ModelName, None], name: ModelName) -> float:
        if name in slots:
            return 1.0
        return 0.8 if len(slots) < self.SLOTS else 0.0
