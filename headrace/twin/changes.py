"""A simulated engine's block events as those who listen learn of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from headrace.simulator.requests import BlockEvent, BlockKey, BlocksCleared, BlocksRemoved
from headrace.twin.placement import BlocksChanged


def changes_of(events: Iterable[BlockEvent]) -> Iterator[BlocksChanged]:
    """Yield the events of a step as few changes, in an order that means the same.

    Runs of removals, then runs of storings, become one change; a removal after a storing begins
    the next one.
    """
    stored: list[int] = []
    removed: list[int] = []
    chains: list[tuple[int, int | None]] = []
    for event in events:
        if isinstance(event, BlocksCleared):
            yield BlocksChanged(cleared=True)
            stored, chains, removed = [], [], []
        elif isinstance(event, BlocksRemoved):
            if stored:
                yield BlocksChanged(stored, chains, removed)
                stored, chains, removed = [], [], []
            removed.extend(_numbers(event.keys))
        else:
            parent = event.parent
            chains.append((len(stored), None if parent is None else _numbers((parent,))[0]))
            stored.extend(_numbers(event.keys))
    if stored or removed:
        yield BlocksChanged(stored, chains, removed)


def _numbers(keys: Sequence[BlockKey]) -> Sequence[int]:
    """Keys made from a trace are numbers; there are too many of them to look at each."""
    return cast("Sequence[int]", keys)
