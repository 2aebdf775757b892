"""KubeAI's consistent hashing with bounded loads. Pure.

Source: internal/loadbalancer/balance_chwbl.go of substratusai/kubeai 0.22.1; ``prefixCharLength``
100, ``meanLoadFactor`` 125, ``replication`` 256.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import xxhash
from typing_extensions import override

from bench.rivals.rival import Choice, Known, Rule
from headrace.core.request import RouteRequest

REPLICATION: Final = 256
LOAD_FACTOR: Final = 1.25


class Chwbl(Rule):
    """The first endpoint clockwise of the prefix's hash whose load is within 1.25 of the mean.

    The key is the prompt's first 100 characters; here its first routing block, which is 256, so
    that prompts which part between the two spread a little better than in reality. A prompt
    shorter than that counts as unlike any other. It counts its own requests in flight.
    """

    def __init__(self, known: Known) -> None:
        self._known = known
        ring = sorted(
            (xxhash.xxh64_intdigest(f"{endpoint_id}{replica}".encode()), index)
            for index, endpoint_id in enumerate(known.ids)
            for replica in range(REPLICATION)
        )
        self._hashes = [point for point, _ in ring]
        self._owners = [index for _, index in ring]
        self._orders: dict[int, list[int]] = {}

    @override
    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        counts = self._known.counts()
        total = sum(counts)
        order = self._order(bisect_left(self._hashes, self._key(request)) % len(self._hashes))
        limit = LOAD_FACTOR * (total + 1) / self._known.size
        for index in order:
            if not total or counts[index] + 1 <= limit:
                return Choice(index)
        return Choice(order[0])

    def _key(self, request: RouteRequest) -> int:
        prefix = request.blocks[0] if request.blocks else request.request_id
        return xxhash.xxh64_intdigest(str(prefix).encode())

    def _order(self, point: int) -> list[int]:
        """Return the endpoints in the order in which they are met; computed once per point."""
        order = self._orders.get(point)
        if order is None:
            order = list(dict.fromkeys(self._owners[point:] + self._owners[:point]))
            self._orders[point] = order
        return order
