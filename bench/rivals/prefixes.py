"""Who holds which prefix, as the rivals know it: from routing, from KV events, in flight. Pure.

Blocks are chained: one names the whole prefix that ends in it, so that whoever holds a block holds
those before it too. Depths are therefore found by bisection and not by walking. That holds for
engines as well, which evict the end of a prefix before its beginning (kvcache/estimate.py).
Endpoints are bits of one integer per block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.twin.placement import BlocksChanged


def shared(one: Sequence[int], other: Sequence[int], floor: int = 0) -> int:
    """Return how many leading blocks are equal, or ``floor`` if no more than that are."""
    limit = min(len(one), len(other))
    if floor >= limit or one[floor] != other[floor]:
        return floor
    if one[limit - 1] == other[limit - 1]:
        return limit
    low, high = floor + 1, limit - 1
    while low < high:
        middle = (low + high) // 2
        if one[middle] == other[middle]:
            low = middle + 1
        else:
            high = middle
    return low


def depths(holders: Mapping[int, int], blocks: Sequence[int], size: int) -> list[int]:
    """Return, per endpoint, how many leading ``blocks`` it holds.

    Args:
        holders: Block to the bits of who holds it.
        blocks: A prompt's, first block first.
        size: How many endpoints there are.

    """
    found = [0] * size
    if not blocks:
        return found
    open_ranges = [(0, len(blocks), (1 << size) - 1)]
    while open_ranges:
        low, high, who = open_ranges.pop()
        if low == high:
            while who:
                bit = who & -who
                found[bit.bit_length() - 1] = low
                who ^= bit
            continue
        middle = (low + high + 1) // 2
        having = holders.get(blocks[middle - 1], 0) & who
        if having:
            open_ranges.append((middle, high, having))
        if who != having and middle > 1:
            open_ranges.append((low, middle - 1, who & ~having))
    return found


def _add(holders: dict[int, int], blocks: Sequence[int], index: int, size: int) -> tuple[int, int]:
    """Add an endpoint to a prompt's holders; return the blocks that it, and that anybody, held.

    Prompts are long and most of one is new to everybody: that part is added in one go.
    """
    before = depths(holders, blocks, size)
    own, anybody = before[index], max(before)
    for block in blocks[own:anybody]:
        holders[block] |= 1 << index
    holders.update(dict.fromkeys(blocks[anybody:], 1 << index))
    return own, anybody


class KvIndex:
    """What engines hold, from their KV events."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._holders: dict[int, int] = {}

    def changed(self, index: int, change: BlocksChanged) -> None:
        """Apply one endpoint's events."""
        holders, bit = self._holders, 1 << index
        if change.cleared:
            kept = ((block, bits & ~bit) for block, bits in holders.items())
            self._holders = holders = {block: bits for block, bits in kept if bits}
        for block in change.removed:
            left = holders.get(block, 0) & ~bit
            if left:
                holders[block] = left
            else:
                holders.pop(block, None)
        for block in change.stored:
            holders[block] = holders.get(block, 0) | bit

    def depths(self, blocks: Sequence[int]) -> list[int]:
        """Return, per endpoint, how many leading blocks it holds."""
        return depths(self._holders, blocks, self._size)


class SentPrefixes:
    """What was sent where: an approximate prefix tree, each endpoint's part bounded by LRU.

    Args:
        limits_blocks: Per endpoint, how many blocks are remembered, >= 1.

    """

    def __init__(self, limits_blocks: Sequence[int]) -> None:
        self.size = len(limits_blocks)
        self._limits = limits_blocks
        self._holders: dict[int, int] = {}
        self._held: list[OrderedDict[int, None]] = [OrderedDict() for _ in limits_blocks]
        self._latest: dict[int, int] = {}

    def sent(self, index: int, blocks: Sequence[int]) -> None:
        """Note a prompt: its blocks become the endpoint's latest, the first block most of all."""
        held, holders = self._held[index], self._holders
        own, _ = _add(holders, blocks, index, self.size)
        held.update(dict.fromkeys(reversed(blocks[own:])))
        for block in reversed(blocks[:own]):
            held.move_to_end(block)
        self._latest.update(dict.fromkeys(blocks, index))
        bit = 1 << index
        while len(held) > self._limits[index]:
            block, _ = held.popitem(last=False)
            left = holders[block] & ~bit
            if left:
                holders[block] = left
            else:
                del holders[block]
                del self._latest[block]

    def depths(self, blocks: Sequence[int]) -> list[int]:
        """Return, per endpoint, how many leading blocks it was sent."""
        return depths(self._holders, blocks, self.size)

    def latest(self, block: int) -> int | None:
        """Return who was sent a block last, if it still counts as holding it."""
        index = self._latest.get(block)
        return index if index is not None and self._holders[block] >> index & 1 else None

    def blocks(self, index: int) -> int:
        """Return the size of an endpoint's part."""
        return len(self._held[index])


@dataclass(slots=True)
class PooledPrefixes:
    """What was sent where, with one bound and one age limit for all endpoints together.

    Attributes:
        size: How many endpoints there are.
        limit_blocks: Blocks remembered in all; the least recently used is forgotten for everybody.
        ttl_s: Age at which an unused block is forgotten.

    """

    size: int
    limit_blocks: int
    ttl_s: float
    _holders: dict[int, int] = field(default_factory=dict)
    _used_s: OrderedDict[int, float] = field(default_factory=OrderedDict)

    def sent(self, index: int, blocks: Sequence[int], now_s: float) -> None:
        """Note a prompt."""
        holders, used_s = self._holders, self._used_s
        _, anybody = _add(holders, blocks, index, self.size)
        used_s.update(dict.fromkeys(reversed(blocks), now_s))
        for block in reversed(blocks[:anybody]):
            used_s.move_to_end(block)
        while len(used_s) > self.limit_blocks:
            del holders[used_s.popitem(last=False)[0]]

    def depths(self, blocks: Sequence[int], now_s: float) -> list[int]:
        """Return, per endpoint, how many leading blocks it was sent."""
        used_s = self._used_s
        while used_s and used_s[next(iter(used_s))] <= now_s - self.ttl_s:
            del self._holders[used_s.popitem(last=False)[0]]
        return depths(self._holders, blocks, self.size)
