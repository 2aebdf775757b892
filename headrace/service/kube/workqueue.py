"""Keys to work on: each at most once in the queue and at most once at work. Pure.

Source: the rules of client-go v0.34, util/workqueue; times to come back are kept per key.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from headrace.service.kube.backoff import Backoff

K = TypeVar("K", bound=Hashable)


_STALE: Final = 64
"""Entries of the heap that may be out of date before it is built anew, beside as many again."""


class Queue(Generic[K]):
    """What is to be done, and when; the caller says what time it is.

    A key that is added while it is worked on is worked on again, once, after that. A key has at
    most one time to come back at, the earliest that was asked for; it is forgotten when work on
    the key begins, since work looks at everything and says anew when it wants to be called. So
    nothing here grows beyond a small multiple of the keys that exist.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._ready: OrderedDict[K, float] = OrderedDict()
        self._working: dict[K, float | None] = {}
        self._due_s: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._entered = 0
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def working(self) -> int:
        """Keys that are worked on."""
        return len(self._working)

    @property
    def delayed(self) -> int:
        """Keys that wait for their time."""
        return len(self._due_s)

    def failures(self, key: K) -> int:
        """Return how often in a row work on a key has failed."""
        return self._failures.get(key, 0)

    def add(self, key: K, now_s: float) -> None:
        """Have a key worked on as soon as may be."""
        if key in self._working:
            if self._working[key] is None:
                self._working[key] = now_s
        elif key not in self._ready:
            self._ready[key] = now_s

    def add_at(self, key: K, due_s: float) -> None:
        """Have a key worked on at ``due_s``, or earlier if that was asked for."""
        if due_s >= self._due_s.get(key, float("inf")):
            return
        self._due_s[key] = due_s
        self._entered += 1
        heapq.heappush(self._heap, (due_s, self._entered, key))
        if len(self._heap) > 2 * len(self._due_s) + _STALE:
            self._heap = [entry for entry in self._heap if self._due_s.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def next_due_s(self) -> float | None:
        """Return when the next key comes back, or None."""
        while self._heap and self._due_s.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take(self, now_s: float) -> tuple[K, float] | None:
        """Return the key to work on now and how long it has waited in seconds, or None.

        Whoever takes it says ``done`` or ``failed``.
        """
        while (due_s := self.next_due_s()) is not None and due_s <= now_s:
            key = heapq.heappop(self._heap)[2]
            del self._due_s[key]
            self.add(key, due_s)
        if not self._ready:
            return None
        key, added_s = self._ready.popitem(last=False)
        self._due_s.pop(key, None)
        self._working[key] = None
        return key, max(0.0, now_s - added_s)

    def done(self, key: K) -> None:
        """End work on a key that went well: past failures are forgotten."""
        self._failures.pop(key, None)
        self._end(key)

    def failed(self, key: K, now_s: float) -> float:
        """End work on a key that failed; it comes back by itself, in the seconds returned."""
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        wait_s = self._backoff.full_s(failures)  # whose turns differ already
        self._end(key)
        self.add_at(key, now_s + wait_s)
        return wait_s

    def put_back(self, key: K, now_s: float) -> None:
        """End work on a key that was broken off: it is still to be done."""
        self.add(key, now_s)
        self._end(key)

    def _end(self, key: K) -> None:
        added_s = self._working.pop(key)
        if added_s is not None:
            self._ready[key] = added_s
