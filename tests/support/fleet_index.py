"""An index for every block scheme behind one sink, for tests that look at what is held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import EndpointId
from kvcache.changes import Tier
from kvcache.index import Held, PrefixIndex


class FleetIndex:
    """Takes all endpoints' changes; blocks of a scheme not yet known are kept under None."""

    def __init__(self) -> None:
        self._schemes: dict[EndpointId, BlockScheme] = {}
        self._indexes: dict[BlockScheme | None, PrefixIndex] = {}

    def scheme(self, endpoint: EndpointId, scheme: BlockScheme | None) -> None:
        before = self._schemes.pop(endpoint, None)
        if scheme is not None:
            self._schemes[endpoint] = scheme
        if before == scheme:
            return
        index = self._index(before)
        if before is None:
            for tier, hashes in index.held_by(endpoint):
                self._index(scheme).stored(endpoint, hashes, tier)
        index.forget(endpoint)

    def stored(
        self, endpoint: EndpointId, tier: Tier, hashes: Sequence[int], parent: int | None
    ) -> None:
        self._of(endpoint).stored(endpoint, hashes, tier, parent)

    def removed(self, endpoint: EndpointId, tier: Tier, hashes: Sequence[int]) -> None:
        self._of(endpoint).removed(endpoint, hashes, tier)

    def cleared(self, endpoint: EndpointId) -> None:
        self._of(endpoint).cleared(endpoint)

    def forgotten(self, endpoint: EndpointId) -> None:
        self._of(endpoint).forget(endpoint)

    def longest_prefix(
        self, blocks: Mapping[BlockScheme, Sequence[int]], now_s: float
    ) -> dict[EndpointId, Held]:
        found: dict[EndpointId, Held] = {}
        for scheme, hashes in blocks.items():
            found |= self._index(scheme).longest_prefix(hashes, now_s)
        return found

    def scheme_of(self, endpoint: EndpointId) -> BlockScheme | None:
        return self._schemes.get(endpoint)

    def held_by(self, endpoint: EndpointId) -> set[int]:
        """Return the GPU blocks that an endpoint has reported and not removed."""
        pieces = self._of(endpoint).held_by(endpoint)
        return {name for tier, hashes in pieces if tier is Tier.GPU for name in hashes}

    def blocks(self, endpoint: EndpointId, tier: Tier = Tier.GPU) -> int:
        return self._of(endpoint).blocks(endpoint, tier)

    def check(self) -> None:
        for scheme, index in self._indexes.items():
            index.check()
            for endpoint in index.endpoints():
                assert self._schemes.get(endpoint) == scheme

    def _of(self, endpoint: EndpointId) -> PrefixIndex:
        return self._index(self._schemes.get(endpoint))

    def _index(self, scheme: BlockScheme | None) -> PrefixIndex:
        return self._indexes.setdefault(scheme, PrefixIndex())
