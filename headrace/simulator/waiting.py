"""The waiting queue of an engine: first come first served, or by priority. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator

from headrace.simulator.sequence import Sequence

_Rank = tuple[int, float, int, Sequence]


class FcfsQueue:
    """Arrival order; a preempted request goes back to the front."""

    def __init__(self) -> None:
        self._items: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._items)

    def push(self, sequence: Sequence) -> None:
        """Add at the end."""
        self._items.append(sequence)

    def put_back(self, sequences: Iterable[Sequence]) -> None:
        """Return requests to the front; the first given will be the first out."""
        self._items.extendleft(reversed(list(sequences)))

    def peek(self) -> Sequence:
        """Return the next request without taking it."""
        return self._items[0]

    def pop(self) -> Sequence:
        """Take the next request."""
        return self._items.popleft()

    def remove(self, sequence: Sequence) -> None:
        """Take out a request wherever it is."""
        self._items.remove(sequence)


class PriorityQueue:
    """Lowest ``priority`` first, then arrival; a preempted request keeps its rank."""

    def __init__(self) -> None:
        self._heap: list[_Rank] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        return (rank[3] for rank in sorted(self._heap, key=lambda rank: rank[:3]))

    def push(self, sequence: Sequence) -> None:
        """Add by rank."""
        rank = (sequence.request.priority, sequence.queued_s, sequence.number, sequence)
        heapq.heappush(self._heap, rank)

    def put_back(self, sequences: Iterable[Sequence]) -> None:
        """Return requests by rank."""
        for sequence in sequences:
            self.push(sequence)

    def peek(self) -> Sequence:
        """Return the next request without taking it."""
        return self._heap[0][3]

    def pop(self) -> Sequence:
        """Take the next request."""
        return heapq.heappop(self._heap)[3]

    def remove(self, sequence: Sequence) -> None:
        """Take out a request wherever it is."""
        self._heap = [rank for rank in self._heap if rank[3] is not sequence]
        heapq.heapify(self._heap)
