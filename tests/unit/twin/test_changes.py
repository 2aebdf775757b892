from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from random import Random

import pytest

from headrace.core.ids import RequestId
from headrace.simulator.requests import BlockEvent, BlocksCleared, BlocksRemoved, BlocksStored
from headrace.twin.changes import changes_of
from headrace.twin.placement import BlocksChanged


def stored(*keys: int, parent: int | None = None) -> BlocksStored:
    return BlocksStored(RequestId("r"), keys, 0, parent, None)


def test_removals_then_storings_are_one_change() -> None:
    events: list[BlockEvent] = [
        BlocksRemoved((1, 2)),
        BlocksRemoved((3,)),
        stored(4, 5),
        stored(6, parent=9),
    ]
    (change,) = changes_of(events)
    assert change == BlocksChanged([4, 5, 6], [(0, None), (2, 9)], [1, 2, 3])


def test_a_removal_after_a_storing_begins_another() -> None:
    first, second = changes_of([stored(4), BlocksRemoved((4,)), stored(5)])
    assert (first.stored, first.removed) == ([4], [])
    assert (second.stored, second.removed) == ([5], [4])


def test_a_cleared_cache_makes_what_was_before_it_pointless() -> None:
    changes = list(changes_of([stored(4), BlocksCleared(), stored(5)]))
    assert changes == [BlocksChanged(cleared=True), BlocksChanged([5], [(0, None)], [])]


def test_no_events_are_no_changes() -> None:
    assert list(changes_of([])) == []


def store(held: dict[object, object], keys: Iterable[object], parent: object) -> None:
    """Enter a chain: block -> the one before it."""
    for key in keys:
        held[key] = parent
        parent = key


def held_after_events(events: Iterable[BlockEvent]) -> dict[object, object]:
    held: dict[object, object] = {}
    for event in events:
        if isinstance(event, BlocksCleared):
            held.clear()
        elif isinstance(event, BlocksRemoved):
            for key in event.keys:
                held.pop(key, None)
        else:
            store(held, event.keys, event.parent)
    return held


def held_after_changes(changes: Iterable[BlocksChanged]) -> dict[object, object]:
    held: dict[object, object] = {}
    for change in changes:
        if change.cleared:
            held.clear()
        for key in change.removed:
            held.pop(key, None)
        ends = [begin for begin, _ in change.chains[1:]]
        for (begin, parent), end in zip_longest(change.chains, ends):
            store(held, change.stored[begin:end], parent)
    return held


@pytest.mark.parametrize("seed", range(50))
def test_changes_mean_the_same_as_the_events_they_stand_for(seed: int) -> None:
    rng = Random(seed)
    events: list[BlockEvent] = []
    for _ in range(rng.randint(1, 30)):
        keys = tuple(rng.sample(range(20), rng.randint(1, 5)))
        kind = rng.random()
        if kind < 0.05:
            events.append(BlocksCleared())
        elif kind < 0.5:
            events.append(BlocksRemoved(keys))
        else:
            events.append(stored(*keys, parent=rng.choice((None, 99))))
    assert held_after_changes(changes_of(events)) == held_after_events(events)
