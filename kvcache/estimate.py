"""Which endpoint probably holds which prefixes, guessed from where we sent them. Pure.

For engines that publish no KV events. The guess is optimistic, since an engine may have evicted
what we think it holds, and bounded, since we forget what is beyond its capacity.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from headrace.core.ids import BlockHash, EndpointId


class PrefixEstimate:
    """Block hash -> endpoints we sent it to, each endpoint bounded by LRU. One owner.

    Hashes are chained, so a block stands for the whole prefix that ends in it. Endpoints are bits
    of one integer per block: a look-up for all endpoints at once is one AND per block.
    """

    def __init__(self) -> None:
        self._bits: dict[EndpointId, int] = {}
        self._holders: dict[BlockHash, int] = {}
        self._held: dict[EndpointId, OrderedDict[BlockHash, None]] = {}

    def stored(
        self, endpoint: EndpointId, blocks: Sequence[BlockHash], *, limit_blocks: int
    ) -> None:
        """Record that ``endpoint`` was sent ``blocks``, a prompt's prefix from its first block on.

        They become its most recently used, the first block most of all, so that the end of a
        prefix is forgotten before its beginning: the order in which vLLM evicts
        (``FreeKVCacheBlockQueue``, vllm/v1/core/kv_cache_utils.py, 0.32).

        Args:
            endpoint: Which endpoint.
            blocks: Chained hashes, first block first.
            limit_blocks: How many blocks it can hold in all, >= 1.

        """
        bit = self._bit(endpoint)
        held = self._held[endpoint]
        holders = self._holders
        for block in reversed(blocks):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                holders[block] = holders.get(block, 0) | bit
        while len(held) > limit_blocks:
            block, _ = held.popitem(last=False)
            self._let_go(block, bit)

    def removed(self, endpoint: EndpointId) -> None:
        """Forget ``endpoint`` and all it held: it is gone, or it restarted with an empty cache."""
        bit = self._bits.pop(endpoint, 0)
        for block in self._held.pop(endpoint, ()):
            self._let_go(block, bit)

    def longest_prefix(self, blocks: Sequence[BlockHash]) -> dict[EndpointId, int]:
        """Return, per endpoint, how many leading blocks of ``blocks`` it is believed to hold.

        Endpoints that hold none are left out. Changes nothing: looking is not using.
        """
        alive = 0
        depths: list[tuple[int, int]] = []  # (mask of those whose prefix ends here, its length)
        holders = self._holders
        for depth, block in enumerate(blocks):
            still = holders.get(block, 0) & (alive if depth else -1)
            if still != alive and depth:
                depths.append((alive & ~still, depth))
            alive = still
            if not alive:
                break
        else:
            depths.append((alive, len(blocks)))
        if not depths:
            return {}
        return {
            endpoint: depth
            for endpoint, bit in self._bits.items()
            for mask, depth in depths
            if mask & bit
        }

    def blocks(self, endpoint: EndpointId) -> int:
        """Return how many blocks ``endpoint`` is believed to hold."""
        return len(self._held.get(endpoint, ()))

    def check(self) -> None:
        """Assert that the two maps mirror each other and that no empty holder is kept."""
        assert self._bits.keys() == self._held.keys()
        assert len(set(self._bits.values())) == len(self._bits)
        mirror: dict[BlockHash, int] = {}
        for endpoint, held in self._held.items():
            for block in held:
                mirror[block] = mirror.get(block, 0) | self._bits[endpoint]
        assert mirror == self._holders

    def _bit(self, endpoint: EndpointId) -> int:
        bit = self._bits.get(endpoint)
        if bit is None:
            taken = 0
            for other in self._bits.values():
                taken |= other
            bit = ~taken & (taken + 1)  # the lowest bit that is free
            self._bits[endpoint] = bit
            self._held[endpoint] = OrderedDict()
        return bit

    def _let_go(self, block: BlockHash, bit: int) -> None:
        left = self._holders[block] & ~bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
