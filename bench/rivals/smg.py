"""SMG and its ancestor, the SGLang router: ``cache_aware`` and ``least_load``. Pure.

Source: model_gateway/src/policies/{cache_aware,least_load}.rs of lightseekorg/smg, 2026-08.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from bench.rivals.prefixes import SentPrefixes
from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest

BLOCK_BYTES: Final = 256
"""Of one routing block; the rivals' trees are over characters, so up to that much of a match is
not seen here."""


@dataclass(frozen=True, slots=True)
class CacheAwareConfig:
    """The defaults of one version.

    Attributes:
        match_ratio: A prompt follows the longest match if more than this share of it matches.
        spread_requests: Loads are unequal if they spread by more than that,
        spread_ratio: and the largest is more than so many times the smallest.
        tree_bytes: Text remembered per worker.
        miss_to_smallest: Whether a miss goes to the worker with the least text or the least load.

    """

    match_ratio: float
    spread_requests: int
    spread_ratio: float
    tree_bytes: int
    miss_to_smallest: bool


SGLANG: Final = CacheAwareConfig(0.5, 32, 1.1, 2**24, miss_to_smallest=True)
"""Source: ``CacheAwareConfig::default()``; 2**24 characters per worker as sglang_router 0.1 has it,
since that default's 10,000 would not hold one long prompt."""

SMG: Final = CacheAwareConfig(0.3, 64, 1.5, 2**26, miss_to_smallest=False)
"""Source: the command line's defaults of smg, router_args.py, 2026-08."""


class CacheAware(Rule):
    """By prefix match while loads are about equal, else to the least loaded.

    It has its own count of requests in flight and a tree of the text that it sent, bounded per
    worker (evicted every 30 to 120 s in reality, here at once). A match counts for whoever was
    sent it last. Equal workers are taken in order of the list, as ``min_by_key`` does: the known
    preference for worker 0 at low load (sglang #32983) is theirs.

    The oracle form knows what each worker holds, takes the lightest of the longest matches (as
    SMG's event-driven mode), and counts requests at the engines.
    """

    def __init__(self, known: Known, config: CacheAwareConfig) -> None:
        self._known = known
        self._config = config
        self._sent = SentPrefixes([config.tree_bytes // BLOCK_BYTES] * known.size)

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        index = self._index(request)
        self._sent.sent(index, request.blocks)
        return Choice(index)

    def _index(self, request: RouteRequest) -> int:
        config, counts = self._config, self._known.counts()
        least, most = min(counts), max(counts)
        if most - least > config.spread_requests and most > config.spread_ratio * least:
            return counts.index(least)
        index, matched_tokens = self._match(request, counts)
        if matched_tokens > config.match_ratio * request.prompt_tokens:
            return index
        if not config.miss_to_smallest:
            return counts.index(least)
        sizes = [self._sent.blocks(index) for index in range(self._known.size)]
        return sizes.index(min(sizes))

    def _match(self, request: RouteRequest, counts: list[int]) -> tuple[int, float]:
        if self._known.oracle:
            cached = self._known.cached_tokens(request)
            index = min(range(len(cached)), key=lambda index: (-cached[index], counts[index]))
            return index, cached[index]
        depths = self._sent.depths(request.blocks)
        depth = max(depths)
        if not depth:
            return 0, 0.0
        latest = self._sent.latest(request.blocks[depth - 1])
        index = depths.index(depth) if latest is None else latest
        return index, depth * request.block_tokens


KV_PRESSURE_S: Final = 0.15
"""Seconds that a KV cache half full counts for: ``DEFAULT_KV_PRESSURE_WEIGHT``."""

TOKENS_PER_S: Final = 2_000.0
"""``DEFAULT_THROUGHPUT``: engines here report none, as vLLM does not."""

KV_FULL: Final = 0.999
"""Where the pressure is capped."""

POLL_S: Final = 10.0
"""``DEFAULT_LOAD_CHECK_INTERVAL_SECS``."""

PREFILL_TOKENS: Final = 1_024
"""``DEFAULT_MEAN_PREFILL_TOKENS``: a request's size while no worker has reported."""


class LeastLoad(Rule):
    """The worker with the least estimated time to drain, plus a barrier before a full KV cache.

    ``(queued + sent since the poll) / throughput + 0.15 k / (1 - k)`` with the engine's own count
    of queued uncached tokens and KV use ``k``, polled every 10 s, and whole prompts since then
    (the gRPC path, which knows them). The first of equals.
    """

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        scores = [self._score_s(index) for index in range(self._known.size)]
        return Choice(scores.index(min(scores)), request.prompt_tokens)

    def _score_s(self, index: int) -> float:
        flights, report = self._known.flights, self._known.reports[index]
        if report is None:
            return flights.requests[index] * PREFILL_TOKENS / TOKENS_PER_S
        since = flights.ever_booked_tokens[index] - report.booked_before
        used = min(report.load.kv_used_ratio, KV_FULL)
        drain_s = (report.pending_tokens + since) / TOKENS_PER_S
        return drain_s + KV_PRESSURE_S * used / (1 - used)
