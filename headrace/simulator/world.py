"""Virtual time: a clock, a heap of things to do, chance by purpose, and a digest. Pure.

Everything that happens in a simulation happens in a callback that the world calls in the order of
``(due_ns, sequence)``. Two runs with the same seed make the same calls and the same digest.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Final

_NS: Final = 1_000_000_000


class World:
    """One simulated world, from time 0."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._now_ns = 0
        self._sequence = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self._noted = 0

    @property
    def now_s(self) -> float:
        """Seconds since the world began."""
        return self._now_ns / _NS

    @property
    def pending(self) -> int:
        """Callbacks not yet called."""
        return len(self._heap)

    @property
    def noted(self) -> int:
        """Lines in the digest."""
        return self._noted

    def at(self, due_s: float, call: Callable[[], None]) -> None:
        """Call at ``due_s``, or at once (but after what is due already) when that is past."""
        due_ns = max(self._now_ns, round(due_s * _NS))
        heapq.heappush(self._heap, (due_ns, self._sequence, call))
        self._sequence += 1

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call ``delay_s`` seconds from now."""
        self.at(self.now_s + delay_s, call)

    def run(self, until_s: float | None = None, max_calls: int | None = None) -> int:
        """Make calls in order until none is left, or none due by ``until_s``.

        Returns:
            The number of calls made; at most ``max_calls``.

        """
        limit_ns = None if until_s is None else round(until_s * _NS)
        calls = 0
        heap = self._heap
        while heap and (max_calls is None or calls < max_calls):
            if limit_ns is not None and heap[0][0] > limit_ns:
                break
            due_ns, _, call = heapq.heappop(heap)
            assert due_ns >= self._now_ns, "time went back"
            self._now_ns = due_ns
            call()
            calls += 1
        if limit_ns is not None and limit_ns > self._now_ns and calls != max_calls:
            self._now_ns = limit_ns
        return calls

    def rng(self, purpose: str) -> random.Random:
        """Return a new generator for one purpose: drawing from it shifts no other purpose."""
        key = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return random.Random(int.from_bytes(key[:8], "big"))

    def note(self, *fields: object) -> None:
        """Add one line, with the time, to the digest; fields must print the same in every run."""
        line = "\t".join(map(str, (self._now_ns, *fields)))
        self._digest.update(line.encode() + b"\n")
        self._noted += 1

    def digest(self) -> str:
        """Return the digest of all lines noted so far."""
        return self._digest.hexdigest()
