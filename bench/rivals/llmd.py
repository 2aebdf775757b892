"""llm-d's router: default weights with either index, and the affinity filter. Pure.

Source: llm-d-router v0.10 (pkg/epp/framework/plugins: scorer/{queuedepth,kvcacheutilization,prefix,
nohitlru,tokenload}, filter/prefixcacheaffinity, dataproducer/{approximateprefix,inflightload}).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from typing_extensions import override

from bench.rivals.prefixes import SentPrefixes
from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest

SCRAPE_S: Final = 0.05
"""Its refresh interval of engine metrics."""

PREFIX_WEIGHT: Final = 3.0
QUEUE_WEIGHT: Final = 2.0
KV_WEIGHT: Final = 2.0
NO_HIT_WEIGHT: Final = 2.0

MATCH_TOKENS: Final = 131_072
"""``maxPrefixTokensToMatch``: longer prompts are cut for matching."""

SPECULATION_S: Final = 2.0
"""Life of the entries that the precise producer adds at dispatch, before events confirm them."""

AFFINITY: Final = 0.80
"""``affinityThreshold``: share of a prompt that makes an endpoint sticky."""

PENALTY_MS: Final = 18_000.0
"""``maxTTFTPenaltyMs``: beyond that, sticky endpoints are too loaded."""

PEAK_TOKENS_PER_S: Final = 15_928.0
"""``peakPrefillThroughput``: of Qwen 32B on two H100, whatever the engines really are."""

FULL_TOKENS: Final = 4_194_304
"""``queueThresholdTokens``: beyond that, token loads are equal."""


class Prefixes(Protocol):
    """Tells which share of a prompt each endpoint holds."""

    def ratios(self, request: RouteRequest, now_s: float) -> list[float]:
        """Return 0 to 1 per endpoint."""
        ...

    def sent(self, request: RouteRequest, index: int) -> None:
        """Note a dispatch."""
        ...


class Approximate(Prefixes):
    """The ``approx-prefix-cache-producer``: what was sent, in an LRU as large as each KV cache.

    It tunes block size and LRU to the engine's; here it has the gateway's blocks of 64 tokens.
    """

    def __init__(self, known: Known, block_tokens: int = 64) -> None:
        self._cut = MATCH_TOKENS // block_tokens
        self._sent = SentPrefixes([max(1, tokens // block_tokens) for tokens in known.kv_tokens])

    @override
    def ratios(self, request: RouteRequest, now_s: float) -> list[float]:
        blocks = request.blocks[: self._cut]
        return [depth / (len(blocks) or 1) for depth in self._sent.depths(blocks)]

    @override
    def sent(self, request: RouteRequest, index: int) -> None:
        self._sent.sent(index, request.blocks[: self._cut])


class Precise(Prefixes):
    """The ``precise-prefix-cache-producer``: KV events, and dispatches of the last two seconds."""

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def ratios(self, request: RouteRequest, now_s: float) -> list[float]:
        keys = self._known.keys(request)
        recent = self._known.flights.depths(keys, now_s - SPECULATION_S)
        depths = map(max, self._known.index.depths(keys), recent)
        return [depth / (len(keys) or 1) for depth in depths]

    @override
    def sent(self, request: RouteRequest, index: int) -> None:
        pass  # the flights know


class Exact(Prefixes):
    """What engines hold, for the oracle form."""

    def __init__(self, known: Known) -> None:
        self._known = known

    @override
    def ratios(self, request: RouteRequest, now_s: float) -> list[float]:
        return [tokens / request.prompt_tokens for tokens in self._known.cached_tokens(request)]

    @override
    def sent(self, request: RouteRequest, index: int) -> None:
        pass  # the engines know


def spread(waiting: Sequence[int]) -> list[float]:
    """Return 1 for the shortest queue to 0 for the longest; all 1 when they are equal."""
    least, most = min(waiting), max(waiting)
    return [1.0 if most == least else (most - one) / (most - least) for one in waiting]


class DefaultWeights(Rule):
    """The highest ``3 prefix + 2 queue + 2 (1 - KV) + 2 no-hit-LRU``; equals by lot.

    Queues and KV use are as of the last scrape, or zero before the first. A request that nobody
    has a block of goes rather to who got such a request longest ago.
    """

    def __init__(self, known: Known, prefixes: Prefixes) -> None:
        self._known = known
        self._prefixes = prefixes
        self._cold: dict[int, None] = {}

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        known = self._known
        ratios = self._prefixes.ratios(request, now_s)
        loads = known.loads(now_s)
        queues = spread([load.waiting for load in loads])
        no_hits = [0.5] * known.size if any(ratios) else self._no_hits()
        costs = [
            -PREFIX_WEIGHT * ratio
            - QUEUE_WEIGHT * queue
            - KV_WEIGHT * (1.0 - load.kv_used_ratio)
            - NO_HIT_WEIGHT * no_hit
            for ratio, queue, load, no_hit in zip(ratios, queues, loads, no_hits, strict=True)
        ]
        index = known.lowest(costs)
        if not any(ratios):
            self._cold.pop(index, None)
            self._cold[index] = None
        self._prefixes.sent(request, index)
        return Choice(index)

    def _no_hits(self) -> list[float]:
        """Return 1 for who goes first to 0 for who goes last, by when they got a cold request."""
        size = self._known.size
        never = [index for index in range(size) if index not in self._cold]
        scores = [1.0] * size
        for rank, index in enumerate([*never, *self._cold]):
            scores[index] = 1.0 - rank / max(1, size - 1)
        return scores


class Affinity(Rule):
    """The least uncached tokens among sticky endpoints, or among all when those are overloaded.

    The composition of the optimized-baseline guide: ``prefix-cache-affinity-filter``, then
    ``token-load-scorer`` over the uncached tokens in flight plus the request's own.
    """

    def __init__(self, known: Known, prefixes: Prefixes) -> None:
        self._known = known
        self._prefixes = prefixes

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        known = self._known
        ratios = self._prefixes.ratios(request, now_s)
        missing = [round(request.prompt_tokens * (1.0 - ratio)) for ratio in ratios]
        inflight = known.flights.booked_tokens
        kept = self._kept(ratios, inflight)
        loads = [
            float(min(FULL_TOKENS, inflight[index] + missing[index])) if index in kept else 2e9
            for index in range(known.size)
        ]
        index = known.lowest(loads)
        self._prefixes.sent(request, index)
        return Choice(index, missing[index])

    def _kept(self, ratios: list[float], inflight: list[int]) -> set[int]:
        everyone = set(range(self._known.size))
        sticky = {index for index in everyone if ratios[index] >= AFFINITY}
        others = everyone - sticky
        if not sticky or not others:
            return everyone
        ahead = min(inflight[index] for index in sticky) - min(inflight[index] for index in others)
        too_late = ahead / PEAK_TOKENS_PER_S * 1_000.0 > PENALTY_MS
        return everyone if too_late else sticky
