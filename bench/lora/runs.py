"""One contender over one demand. Pure, apart from the twin's stopwatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from bench.lora.workload import adapter_names
from bench.rivals.adapters import AffinityFirst, LeastAdapters, LoadedEverywhere
from bench.rivals.rival import Rival
from headrace.core.adapter import AdapterSpec
from headrace.core.ids import ModelName
from headrace.core.outcome import Outcome
from headrace.core.record import ServedRecord
from headrace.simulator.presets import engine_spec
from headrace.simulator.spec import EngineSpec
from headrace.simulator.trace import TraceRequest
from headrace.twin.placement import Placement
from headrace.twin.production import ProductionRouter
from headrace.twin.run import TwinResult, run_placement
from router.catalog import DEFAULT_POLICY

ENGINES: Final = 8
SLOTS: Final = 16
LOAD_S: Final = 0.04
"""84 MB, as of rank 16 on every layer of an 8B model: 30 ms from disk, 4 ms over PCIe 4.0, and 6 ms
that vLLM's own call took with an adapter of next to no size; its engine does nothing else meanwhile
(the worker loads between two steps), and by default it keeps no more adapters in host memory than
it has slots (``max_cpu_loras``), so what was evicted is read from disk again."""

HARDWARE: Final = ("L40S", "Llama-3.1-8B")

OURS: Final = "headrace"
AIBRIX: Final = "aibrix leastAdapters"
LRU: Final = "plain LRU"
LLMD: Final = "llm-d lora-affinity"


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender came to.

    Attributes:
        added_ms: Per request, its time to first token less the same request's where every adapter
            is in a slot everywhere, in order; below 0 where it came sooner.
        ttft_ms: Per request.
        loads: Adapters brought into slots, all engines together.
        requests: How many were served.

    """

    added_ms: Sequence[float]
    ttft_ms: Sequence[float]
    loads: int
    requests: int

    @property
    def hit_ratio(self) -> float:
        """Share of requests whose adapter was in a slot when they came to run."""
        return 1.0 - self.loads / self.requests


def specs() -> list[EngineSpec]:
    """Return the engines."""
    spec = replace(engine_spec(*HARDWARE), max_loras=SLOTS, lora_load_s=LOAD_S)
    return [spec] * ENGINES


def _ours(count: int, seed: int) -> Placement:
    adapters = [
        AdapterSpec(ModelName(name), ModelName("sim"), f"file:///adapters/{name}", rank=16)
        for name in adapter_names(count)
    ]
    return ProductionRouter(DEFAULT_POLICY, seed, adapters=adapters)


CONTENDERS: Final[Mapping[str, Callable[[int, int], Placement]]] = MappingProxyType(
    {
        OURS: _ours,
        AIBRIX: lambda _, seed: Rival(LeastAdapters, seed),
        LRU: lambda _, seed: Rival(LoadedEverywhere, seed),
        LLMD: lambda _, seed: Rival(AffinityFirst, seed),
    }
)
"""Makes each contender, of how many adapters and which seed."""


def reference(workload: Sequence[TraceRequest], adapters: int, seed: int) -> list[float]:
    """Return each request's time to first token where adapters cost nothing, in milliseconds.

    The same engines with a slot for every adapter and loads that take no time, under our router.
    """
    free = [replace(spec, max_loras=adapters, lora_load_s=0.0) for spec in specs()]
    return _ttft_ms(_run(workload, free, _ours(adapters, seed), seed).records)


def run(
    name: str, workload: Sequence[TraceRequest], adapters: int, seed: int, free_ms: Sequence[float]
) -> Run:
    """Return what the contender of that name comes to; ``free_ms`` is the reference's."""
    result = _run(workload, specs(), CONTENDERS[name](adapters, seed), seed)
    ttft_ms = _ttft_ms(result.records)
    return Run(
        [own - free for own, free in zip(ttft_ms, free_ms, strict=True)],
        ttft_ms,
        sum(engine.adapter_loads for engine in result.engines),
        len(ttft_ms),
    )


def _run(
    workload: Sequence[TraceRequest], engines: Sequence[EngineSpec], placement: Placement, seed: int
) -> TwinResult:
    return run_placement(workload, specs=engines, placement=placement, seed=seed)


def _ttft_ms(records: Sequence[ServedRecord]) -> list[float]:
    assert all(record.outcome is Outcome.SERVED for record in records)
    return [record.ttft_s * 1_000.0 for record in records]
