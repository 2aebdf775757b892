"""A simulated engine's block events as those who listen learn of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from headrace.simulator.requests import BlockEvent, BlocksCleared, BlocksRemoved
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
            removed.extend(map(_number, event.keys))
        else:
            chains.append((len(stored), None if event.parent is None else _number(event.parent)))
            stored.extend(map(_number, event.keys))
    if stored or removed:
        yield BlocksChanged(stored, chains, removed)


def _number(key: int | bytes) -> int:
    assert isinstance(key, int)
    return key
