"""Who holds which blocks of one tier, kept as runs of blocks with the same holders. Pure.

A run is a piece of a chain, in order: what one event stored, until its holders part. Block hashes
are chained, so two chains that have one hash in common have all before it in common: a look-up
goes along a run by comparing its last block and, where that differs, by halving. Memory is about
one dict entry and one 64-bit array item per block, whoever and however many hold it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

WORD: Final = "Q"
"""Type code of a block hash in an array: unsigned, 64 bits."""

_RUNS_AT_ONCE: Final = 64

_PARTS: Final = 256
_PART: Final = _PARTS - 1
"""Blocks are kept in this many dicts, by their last bits, since a dict stops everything while it
grows: one of five million entries for 0.2 s (bench/index.py)."""


class Runs:
    """Block hash -> run -> bit mask of holders. One owner; an endpoint is one bit of the mask.

    ``stored`` and ``removed`` are exact whatever they are given. ``segment`` relies on chained
    hashes, and so on callers that store the blocks of one chain per call.
    """

    def __init__(self) -> None:
        self._run_of: list[dict[int, int]] = [{} for _ in range(_PARTS)]
        self._count = 0
        self._path: dict[int, array[int]] = {}
        self._mask: dict[int, int] = {}  # in order of use, oldest first
        self._held: dict[int, int] = {}
        self._next = 0

    def __len__(self) -> int:
        """Return the number of distinct blocks."""
        return self._count

    @property
    def runs(self) -> int:
        """How many runs the blocks are in."""
        return len(self._path)

    def held(self, bit: int) -> int:
        """Return how many blocks this holder has."""
        return self._held.get(bit, 0)

    def holders(self, block: int) -> int:
        """Return the mask of those who hold ``block``."""
        run = self._run_of[block & _PART].get(block)
        return 0 if run is None else self._mask[run]

    def stored(self, bit: int, blocks: Sequence[int], parent: int | None = None) -> None:
        """Add a holder to ``blocks``.

        Args:
            bit: The holder, a power of two.
            blocks: Unsigned 64-bit hashes of a piece of one chain, in order.
            parent: The block before them, if known: lets them extend its run.

        """
        run_of, at, end = self._run_of, 0, len(blocks)
        while at < end:
            run = run_of[blocks[at] & _PART].get(blocks[at])
            before = blocks[at - 1] if at else parent
            if run is None:
                at += self._add(bit, blocks, at, before)
                continue
            start, length = self._shared(run, blocks, at)
            mask = self._mask[run]
            if not mask & bit:
                run = self._isolate(run, start, length)
                self._mask[run] = mask | bit
                self._held[bit] = self._held.get(bit, 0) + length
            at += length

    def removed(self, bit: int, blocks: Sequence[int]) -> int:
        """Take a holder off ``blocks``, in any order; return of how many it was one."""
        run_of, masks, paths = self._run_of, self._mask, self._path
        at, end, gone = 0, len(blocks), 0
        while at < end:
            block = blocks[at]
            part = run_of[block & _PART]
            run = part.get(block)
            if run is None or not masks[run] & bit:
                at += 1
                continue
            path = paths[run]
            if path[-1] == block and masks[run] == bit:  # engines evict the end of a prefix first
                path.pop()
                del part[block]
                self._count -= 1
                if not path:
                    del paths[run], masks[run]
                at += 1
                gone += 1
                continue
            start, length = self._shared(run, blocks, at)
            self._leave(self._isolate(run, start, length), bit)
            at += length
            gone += length
        if gone:
            self._held[bit] -= gone
        return gone

    def cleared(self, bit: int) -> None:
        """Take a holder off every block; the bit may then stand for another."""
        if self._held.pop(bit, 0):
            for run in [run for run, mask in self._mask.items() if mask & bit]:
                self._leave(run, bit)

    def segment(self, blocks: Sequence[int], at: int) -> tuple[int, int, int]:
        """Return the run at ``blocks[at]``, its holders, and for how many blocks it goes along.

        Returns:
            ``(run, mask, length)``; ``(-1, 0, 1)`` where nobody holds the block.

        """
        first = blocks[at]
        run = self._run_of[first & _PART].get(first)
        if run is None:
            return -1, 0, 1
        path = self._path[run]
        start = _position(path, first)
        length = min(len(path) - start, len(blocks) - at)
        if path[start + length - 1] == blocks[at + length - 1]:
            return run, self._mask[run], length
        low, high = 1, length  # they agree in the first, not in the last
        while high - low > 1:
            middle = (low + high) // 2
            if path[start + middle - 1] == blocks[at + middle - 1]:
                low = middle
            else:
                high = middle
        return run, self._mask[run], low

    def joined(self, run: int, after: int, blocks: Sequence[int], at: int) -> int | None:
        """Make one run of two that meet in a chain and have the same holders, if they do.

        Holders part a run block by block, as they evict it; who looks along it mends it.

        Args:
            run: The run at ``blocks[at - 1]``.
            after: The run at ``blocks[at]``.
            blocks: A chain.
            at: Where the second run begins in it.

        Returns:
            The run that all the blocks are in now, or None where they stay apart.

        """
        if run == after or self._mask[run] != self._mask[after]:
            return None
        path, rest = self._path[run], self._path[after]
        if path[-1] != blocks[at - 1] or rest[0] != blocks[at]:
            return None
        if len(path) < len(rest):
            self._rename(path, after)
            rest[:0] = path
            kept, gone = after, run
        else:
            self._rename(rest, run)
            path.extend(rest)
            kept, gone = run, after
        del self._path[gone], self._mask[gone]
        return kept

    def touch(self, runs: Sequence[int]) -> None:
        """Make ``runs``, in the order of their chain, the most recently used, the first most so."""
        masks = self._mask
        for run in reversed(runs):
            masks[run] = masks.pop(run)

    def drop_oldest(self, count: int) -> None:
        """Forget ``count`` blocks, the least recently used runs first and their ends first."""
        while count > 0 and self._mask:
            for run in list(islice(self._mask, _RUNS_AT_ONCE)):
                count -= self._drop_end(run, count)
                if count <= 0:
                    return

    def dump(self) -> Iterable[tuple[int, array[int]]]:
        """Yield ``(mask, path)`` of every run, least recently used first."""
        for run, mask in self._mask.items():
            yield mask, self._path[run]

    def check(self) -> None:
        """Assert that runs are disjoint and not empty, and that counts are right."""
        assert self._path.keys() == self._mask.keys()
        run_of: dict[int, int] = {}
        held: dict[int, int] = {}
        for run, path in self._path.items():
            assert path, "an empty run is kept"
            assert self._mask[run] > 0, "a run nobody holds is kept"
            for bit in bits(self._mask[run]):
                held[bit] = held.get(bit, 0) + len(path)
            for block in path:
                assert block not in run_of, "a block is in two runs"
                run_of[block] = run
        for number, part in enumerate(self._run_of):
            for block, run in part.items():
                assert block & _PART == number
                assert run_of.pop(block) == run
        assert not run_of, "a block cannot be found"
        assert self._count == sum(map(len, self._path.values()))
        assert held == {bit: count for bit, count in self._held.items() if count}

    def _add(self, bit: int, blocks: Sequence[int], at: int, before: int | None) -> int:
        """Add the blocks from ``at`` on that nobody holds, up to one that is held."""
        run_of = self._run_of
        run = -1 if before is None else run_of[before & _PART].get(before, -1)
        if run < 0 or self._mask[run] != bit or self._path[run][-1] != before:
            run = self._new(bit, array(WORD))
        end, stop = at, len(blocks)
        while end < stop:
            block = blocks[end]
            part = run_of[block & _PART]
            if block in part:
                break
            part[block] = run
            end += 1
        self._count += end - at
        self._path[run].extend(blocks[at:end])
        self._held[bit] = self._held.get(bit, 0) + end - at
        return end - at

    def _shared(self, run: int, blocks: Sequence[int], at: int) -> tuple[int, int]:
        """Return where in the run ``blocks[at]`` is, and how many are exactly equal from there."""
        path = self._path[run]
        start = _position(path, blocks[at])
        most = min(len(path) - start, len(blocks) - at)
        if most == 1:
            return start, 1
        wanted = array(WORD, blocks[at : at + most])
        if path[start : start + most] == wanted:
            return start, most
        low, high = 1, most
        while high - low > 1:
            middle = (low + high) // 2
            if path[start + low : start + middle] == wanted[low:middle]:
                low = middle
            else:
                high = middle
        return start, low

    def _isolate(self, run: int, start: int, length: int) -> int:
        """Return a run of just these blocks, after splitting off what is around them."""
        if start + length < len(self._path[run]):
            run = self._split(run, start + length)[0]
        if start:
            run = self._split(run, start)[1]
        return run

    def _split(self, run: int, at: int) -> tuple[int, int]:
        """Split a run before its block ``at``; return both halves. The smaller one is renamed."""
        path = self._path[run]
        if at * 2 < len(path):
            moved = path[:at]
            del path[:at]
        else:
            moved = path[at:]
            del path[at:]
        new = self._new(self._mask[run], moved)
        self._rename(moved, new)
        return (new, run) if at * 2 < len(path) + len(moved) else (run, new)

    def _new(self, mask: int, path: array[int]) -> int:
        run, self._next = self._next, self._next + 1
        self._path[run] = path
        self._mask[run] = mask
        return run

    def _rename(self, path: array[int], run: int) -> None:
        run_of = self._run_of
        for block in path:
            run_of[block & _PART][block] = run

    def _leave(self, run: int, bit: int) -> None:
        left = self._mask[run] & ~bit
        if left:
            self._mask[run] = left
        else:
            self._delete(run)

    def _delete(self, run: int) -> None:
        path, run_of = self._path.pop(run), self._run_of
        for block in path:
            del run_of[block & _PART][block]
        self._count -= len(path)
        del self._mask[run]

    def _drop_end(self, run: int, most: int) -> int:
        """Forget the last ``most`` blocks of a run, or all; return how many those were."""
        length = len(self._path[run])
        end = run if length <= most else self._split(run, length - most)[1]
        dropped = min(length, most)
        for bit in bits(self._mask[end]):
            self._held[bit] -= dropped
        self._delete(end)
        return dropped


def bits(mask: int) -> Iterable[int]:
    """Yield the powers of two that ``mask`` is made of, lowest first."""
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit


def _position(path: array[int], block: int) -> int:
    """Return where ``block`` is in ``path``: nearly always first, or last when it is evicted."""
    if path[0] == block:
        return 0
    if path[-1] == block:
        return len(path) - 1
    return path.index(block)
