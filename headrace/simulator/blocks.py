"""Paged KV blocks with reference counts, prefix reuse and LRU eviction. Pure.

A block that holds a full, keyed piece of a prefix is known by its key alone; the others are only
counted. Every block is in exactly one place:

    keyed, referenced      ``_refs[key] > 0``
    keyed, reusable        ``_refs[key] == 0`` and in ``_lru`` (oldest first)
    private to a request   counted by the request, in ``in_use``
    blank                  ``_blank``

vLLM keeps a second physical copy under the same hash when two requests compute one prefix at
once; here the second copy stays private, so that a removal event always means the content is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from headrace.simulator.requests import BlockKey


class BlockPool:
    """The KV blocks of one engine. ``removed`` collects evicted keys until ``take_removed``."""

    def __init__(self, blocks: int, *, caching: bool, record_removed: bool) -> None:
        self.blocks = blocks
        self._caching = caching
        self._record = record_removed
        self._refs: dict[BlockKey, int] = {}
        self._lru: OrderedDict[BlockKey, None] = OrderedDict()
        self._blank = blocks
        self._removed: list[BlockKey] = []

    @property
    def free(self) -> int:
        """Blocks that can be handed out now, blank or by eviction."""
        return self._blank + len(self._lru)

    @property
    def in_use(self) -> int:
        """Blocks that requests hold."""
        return self.blocks - self.free

    @property
    def cached(self) -> int:
        """Keyed blocks, referenced or reusable."""
        return len(self._refs)

    def has(self, key: BlockKey) -> bool:
        """Return whether a block of that content is present."""
        return key in self._refs

    def leading(self, keys: Iterable[BlockKey]) -> int:
        """Return how many leading keys are present; touches nothing."""
        refs = self._refs
        count = 0
        for key in keys:
            if key not in refs:
                break
            count += 1
        return count

    def reusable(self, keys: Iterable[BlockKey]) -> int:
        """Return how many of these present keys nobody references: taking them uses free blocks."""
        refs = self._refs
        return sum(refs[key] == 0 for key in keys)

    def touch(self, keys: Iterable[BlockKey]) -> None:
        """Reference blocks that are present."""
        refs, lru = self._refs, self._lru
        for key in keys:
            count = refs[key]
            if not count:
                del lru[key]
            refs[key] = count + 1

    def take(self, count: int) -> None:
        """Hand out private blocks: blank ones first, then the least recently used."""
        if count <= self._blank:
            self._blank -= count
            return
        evict = count - self._blank
        self._blank = 0
        refs, lru = self._refs, self._lru
        assert evict <= len(lru), "took more blocks than are free"
        for _ in range(evict):
            key, _none = lru.popitem(last=False)
            del refs[key]
            if self._record:
                self._removed.append(key)

    def store(self, keys: Sequence[BlockKey]) -> list[BlockKey | None]:
        """Turn as many private blocks into keyed ones, one reference each.

        Returns:
            The keys in order, with None where another copy is present and this one stays private.

        """
        if not self._caching:
            return [None] * len(keys)
        refs = self._refs
        kept: list[BlockKey | None] = []
        for key in keys:
            if key in refs:
                kept.append(None)
            else:
                refs[key] = 1
                kept.append(key)
        return kept

    def release(self, keys: Sequence[BlockKey | None], private: int) -> None:
        """Give back a request's blocks, last block first, so that a prefix's end goes first.

        ``keys`` are its full blocks in prefix order, None for private ones; ``private`` are
        further blocks that are not full.
        """
        refs, lru = self._refs, self._lru
        blank = private
        for key in reversed(keys):
            if key is None:
                blank += 1
                continue
            count = refs[key] - 1
            refs[key] = count
            if not count:
                lru[key] = None
        self._blank += blank

    def clear(self) -> bool:
        """Forget every reusable block; refused (False) while any keyed block is referenced."""
        if len(self._lru) != len(self._refs):
            return False
        self._blank += len(self._lru)
        self._lru.clear()
        self._refs.clear()
        return True

    def take_removed(self) -> tuple[BlockKey, ...]:
        """Return the keys evicted since the last call, oldest first."""
        removed = tuple(self._removed)
        self._removed.clear()
        return removed

    def check(self, references: dict[BlockKey, int], private: int) -> None:
        """Assert that the books balance with what the requests say they hold."""
        assert self._blank >= 0
        assert all(count >= 0 for count in self._refs.values())
        held = {key: count for key, count in self._refs.items() if count}
        assert held == references, "reference counts differ from what requests hold"
        assert set(self._lru) == {key for key, count in self._refs.items() if not count}
        assert len(self._refs) + private + self._blank == self.blocks, "blocks lost or made up"
