"""AIBrix's ``prefix-cache``. Pure.

Source: pkg/plugins/gateway/algorithms/prefix_cache.go and pkg/utils/prefixcacheindexer/hash.go of
vllm-project/aibrix at e3e10f9e (2026-08), with the constants of its chart (dist/chart/values.yaml).
"""

from __future__ import annotations

import math
from typing import Final

from typing_extensions import override

from bench.rivals.prefixes import PooledPrefixes
from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest

SPREAD_REQUESTS: Final = 16
"""``POD_RUNNING_REQUEST_IMBALANCE_ABS_COUNT``: beyond that spread prefixes do not count."""

DEVIATIONS: Final = 2.0
"""``STANDARD_DEVIATION_FACTOR``: a match may be so much more loaded than the mean."""

INDEX_BYTES: Final = 200_000 * 128
"""``BLOCK_NUMBER`` blocks of ``BLOCK_SIZE`` bytes, for all endpoints together."""

TTL_S: Final = 20 * 60.0
"""``EVICTION_DURATION_MINS``."""

BLOCK_BYTES: Final = 256
"""Of one routing block: twice AIBrix's, so up to 128 bytes of a match are not seen here."""


class PrefixCache(Rule):
    """The best match among those not much more loaded than the rest.

    It has its own count of requests and an index of the text it sent (one LRU for all endpoints,
    never told of evictions or answers). The oracle form has what engines hold and have to do.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        self._sent = PooledPrefixes(known.size, INDEX_BYTES // BLOCK_BYTES, TTL_S)

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        index = self._index(request, now_s)
        self._sent.sent(index, request.blocks, now_s)
        return Choice(index)

    def _index(self, request: RouteRequest, now_s: float) -> int:
        known, counts = self._known, self._known.counts()
        if max(counts) - min(counts) > SPREAD_REQUESTS:
            return known.lowest(counts)
        if known.oracle:
            matched = known.cached_tokens(request)
        else:
            matched = self._sent.depths(request.blocks, now_s)
        mean = sum(counts) / known.size
        variance = sum((count - mean) ** 2 for count in counts) / known.size
        limit = mean + DEVIATIONS * math.sqrt(variance)
        # The first in order of match, then load, that passes: the best of those that pass.
        costs = [
            (-match, count) if match and count <= limit else (1, 0)
            for match, count in zip(matched, counts, strict=True)
        ]
        best = min(costs)
        if best == (1, 0):
            return known.lowest(counts)
        return known.rng.choice([index for index, cost in enumerate(costs) if cost == best])
