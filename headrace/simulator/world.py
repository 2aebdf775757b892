"""Virtual time: a clock, a heap of things to do, chance by purpose, and a digest. Pure.

Everything that happens in a simulation happens in an action that the world runs in the order of
``(due_ns, sequence)``. Two runs with the same seed run the same actions and give the same digest.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random


class World:
    """One simulated world. ``now_ns`` is nanoseconds since it began; only ``run`` moves it."""

    def __init__(self, seed: int) -> None:
        self.now_ns = 0
        self._seed = seed
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def now_s(self) -> float:
        """Seconds since the world began."""
        return self.now_ns / 1e9

    @property
    def pending(self) -> int:
        """Actions not yet run."""
        return len(self._heap)

    def at(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Run ``action`` after ``delay_ns``; ties keep the order in which they were given."""
        assert delay_ns >= 0, "nothing can be due in the past"
        heapq.heappush(self._heap, (self.now_ns + delay_ns, self._sequence, action))
        self._sequence += 1

    def run(self, *, until_ns: int | None = None, limit: int = 1 << 40) -> int:
        """Run actions until none is left, or none is due by ``until_ns``.

        Returns:
            How many were run.

        Raises:
            RuntimeError: after ``limit`` actions, which means a livelock.

        """
        heap = self._heap
        done = 0
        while heap and (until_ns is None or heap[0][0] <= until_ns):
            if done == limit:
                raise RuntimeError(f"still busy after {limit} actions")
            due_ns, _, action = heapq.heappop(heap)
            assert due_ns >= self.now_ns, "time went back"
            self.now_ns = due_ns
            action()
            done += 1
        if until_ns is not None:
            self.now_ns = max(self.now_ns, until_ns)
        return done

    def rng(self, purpose: str) -> Random:
        """Return a new generator for one purpose: drawing from it shifts no other purpose."""
        key = hashlib.sha256(f"{self._seed}/{purpose}".encode()).digest()
        return Random(int.from_bytes(key[:8], "big"))

    def note(self, text: str) -> None:
        """Add a line, with the time, to the digest; the text must be the same in every run."""
        self._digest.update(f"{self.now_ns} {text}\n".encode())

    def digest(self) -> str:
        """Return a hash of all lines so far; further lines may follow."""
        return self._digest.hexdigest()
