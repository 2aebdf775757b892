"""What no placement of a workload's requests can do better: hits, and time to first token. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from headrace.simulator.spec import EngineSpec
from headrace.simulator.steptime import BatchShape, StepTime
from headrace.simulator.trace import TraceRequest


def ideal_cached_tokens(workload: Iterable[TraceRequest]) -> Iterator[int]:
    """Yield each request's cached prompt tokens with one endless cache shared by all.

    A prompt counts as held from the arrival of its request, and so does an answer whose ids the
    workload knows; the last token of a prompt is always computed. So no real fleet can do better.
    Requests without hash ids share nothing. ``workload`` is in the order of arrival.
    """
    seen: dict[int, int] = {}  # longest part of a run that some request had, in tokens
    for request in workload:
        yield min(_held_tokens(request, seen), request.prompt_tokens - 1)
        _remember(request, seen)


def ideal_hit_ratio(workload: Sequence[TraceRequest]) -> float:
    """Return ``ideal_cached_tokens`` over prompt tokens, in all; 0 for no requests."""
    prompt_tokens = sum(request.prompt_tokens for request in workload)
    return sum(ideal_cached_tokens(workload)) / prompt_tokens if prompt_tokens else 0.0


def least_ttft_s(workload: Iterable[TraceRequest], specs: Iterable[EngineSpec]) -> Iterator[float]:
    """Yield for each request a time to first token that no placement can beat.

    Its prompt is computed at once, alone, by the fastest of the engines, which already holds
    all that ``ideal_cached_tokens`` counts.
    """
    requests = list(workload)
    idle = [_IdleEngine(spec) for spec in dict.fromkeys(specs)]
    for request, cached in zip(requests, ideal_cached_tokens(requests), strict=True):
        yield min(engine.ttft_s(request.prompt_tokens, cached) for engine in idle)


class _IdleEngine:
    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._time = StepTime(spec)

    def ttft_s(self, prompt_tokens: int, cached_tokens: int) -> float:
        """Return the sum of its prefill steps; only whole blocks are found cached."""
        computed = cached_tokens // self._spec.block_size * self._spec.block_size
        seconds = 0.0
        while computed < prompt_tokens:
            chunk = min(prompt_tokens - computed, self._spec.max_num_batched_tokens)
            shape = BatchShape(sampled=int(computed + chunk == prompt_tokens))
            shape.add(computed, chunk)
            seconds += self._time.cost(shape).seconds
            computed += chunk
        return seconds


def _held_tokens(request: TraceRequest, seen: Mapping[int, int]) -> int:
    """Return how many leading prompt tokens were seen before."""
    run_tokens = request.hash_block_tokens
    held = 0
    for index, hash_id in enumerate(request.hash_ids):
        part = min(run_tokens, request.prompt_tokens - index * run_tokens)
        known = min(part, seen.get(hash_id, 0))
        held += known
        if known < part:
            break
    return held


def _remember(request: TraceRequest, seen: dict[int, int]) -> None:
    run_tokens = request.hash_block_tokens
    ids, tokens = request.hash_ids, request.prompt_tokens
    if request.output_hash_ids:
        ids, tokens = ids + request.output_hash_ids, tokens + request.output_tokens
    for index, hash_id in enumerate(ids):
        part = min(run_tokens, tokens - index * run_tokens)
        seen[hash_id] = max(part, seen.get(hash_id, 0))
