"""Which endpoint probably holds which prefixes, guessed from where we sent them. Pure.

For engines that publish no KV events. The guess is optimistic, since an engine may have evicted
what we think it holds, and bounded, since we forget what is beyond its capacity.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from headrace.core.ids import BlockHash, EndpointId
from headrace.core.record import Usage

REPLIES_LIMIT: Final = 100_000
"""Most replies remembered as what continues a prompt; about 200 bytes each."""

SHRINK: Final = 0.97
"""What an endpoint's capacity is taken to be, after a reply that found much less than believed."""

GROW: Final = 1.003
"""The same after a reply that found what was believed: ten good replies make up for one bad."""

LEAST_CAPACITY: Final = 0.1
"""Share of an endpoint's stated capacity below which it is never taken to be."""


class PrefixEstimate:
    """Block hash -> endpoints we sent it to, each endpoint bounded by LRU. One owner.

    Hashes are chained, so a block stands for the whole prefix that ends in it. Endpoints are bits
    of one integer per block: a look-up for all endpoints at once is one AND per block.

    Replies correct it. Each adds its own tokens behind the prompt, for the next turn of the
    conversation; and one that found less in the engine's cache than was believed shows that the
    engine forgets sooner than we do, as it also holds what we do not see.
    """

    def __init__(self) -> None:
        self._bits: dict[EndpointId, int] = {}
        self._holders: dict[BlockHash, int] = {}
        self._held: dict[EndpointId, OrderedDict[BlockHash, None]] = {}
        self._capacity: dict[EndpointId, float] = {}
        self._reports: set[EndpointId] = set()
        self._replies: OrderedDict[tuple[EndpointId, BlockHash], float] = OrderedDict()

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
            limit_blocks: How many blocks it is said to hold in all, >= 1.

        """
        limit_blocks = max(1, int(limit_blocks * self._capacity.get(endpoint, 1.0)))
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

    def unsent(self, endpoint: EndpointId, blocks: Sequence[BlockHash]) -> None:
        """Record that ``endpoint`` did not compute ``blocks``: who asked for them left before."""
        held = self._held.get(endpoint)
        if held is None:
            return
        for block in blocks:
            if block in held:
                del held[block]
                self._let_go(block, self._bits[endpoint])

    def answered(
        self, endpoint: EndpointId, last_block: BlockHash, rest_tokens: float, usage: Usage
    ) -> None:
        """Record that a reply follows a prompt.

        Args:
            endpoint: Which endpoint gave it.
            last_block: The prompt's last full block.
            rest_tokens: Prompt tokens behind that block.
            usage: What the engine said of it.

        """
        if endpoint not in self._bits:
            return  # it went away meanwhile
        key = (endpoint, last_block)
        self._replies[key] = rest_tokens + usage.output_tokens
        self._replies.move_to_end(key)
        if len(self._replies) > REPLIES_LIMIT:
            self._replies.popitem(last=False)

    def corrected(self, endpoint: EndpointId, believed_tokens: float, cached_tokens: int) -> None:
        """Compare what was believed to be cached with what a reply says was.

        Engines that have never said that anything was cached may not report it at all.
        """
        if cached_tokens > 0:
            self._reports.add(endpoint)
        if believed_tokens <= 0.0 or endpoint not in self._reports:
            return
        right = cached_tokens >= 0.75 * believed_tokens
        capacity = self._capacity.get(endpoint, 1.0) * (GROW if right else SHRINK)
        self._capacity[endpoint] = min(1.0, max(LEAST_CAPACITY, capacity))

    def reply_tokens(self, endpoint: EndpointId, last_block: BlockHash) -> float:
        """Return the tokens that ``endpoint`` should hold behind a prompt that ended there."""
        return self._replies.get((endpoint, last_block), 0.0)

    def removed(self, endpoint: EndpointId) -> None:
        """Forget ``endpoint`` and all it held: it is gone, or it restarted with an empty cache."""
        self._capacity.pop(endpoint, None)
        self._reports.discard(endpoint)
        if self._bits.get(endpoint):
            for key in [key for key in self._replies if key[0] == endpoint]:
                del self._replies[key]
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
        assert len(self._replies) <= REPLIES_LIMIT
        assert all(endpoint in self._bits for endpoint, _ in self._replies)

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
