"""What KV events change in an index of prefixes, and who takes the changes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import EndpointId
from kvcache.events import BlockRemoved, BlockStored, KvEvent, WireHash
from kvcache.hashing import external
from kvcache.scheme import Guesses, detect


class Tier(StrEnum):
    """Where a block lies, fastest first."""

    GPU = "gpu"
    CPU = "cpu"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks of one chain, in order; ``parent`` is the hash before them, None at its start."""

    tier: Tier
    hashes: Sequence[int]
    parent: int | None


@dataclass(frozen=True, slots=True)
class Removed:
    """Blocks that are gone from a tier."""

    tier: Tier
    hashes: Sequence[int]


@dataclass(frozen=True, slots=True)
class Cleared:
    """The engine dropped all its blocks."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Nothing that was known of the engine can be relied on."""


@dataclass(frozen=True, slots=True)
class SchemeKnown:
    """How the engine names its blocks; None: a new life of it, which has not shown it yet."""

    scheme: BlockScheme | None


Change = Stored | Removed | Cleared | Forgotten | SchemeKnown


class IndexSink(Protocol):
    """Takes the changes of all endpoints, each endpoint's in order."""

    def scheme(self, endpoint: EndpointId, scheme: BlockScheme | None) -> None:
        """Learn how an endpoint names its blocks; None: not known (any more)."""
        ...

    def stored(
        self, endpoint: EndpointId, tier: Tier, hashes: Sequence[int], parent: int | None
    ) -> None:
        """Learn of blocks of one chain, in order, behind ``parent``."""
        ...

    def removed(self, endpoint: EndpointId, tier: Tier, hashes: Sequence[int]) -> None:
        """Learn of blocks that are gone from a tier."""
        ...

    def cleared(self, endpoint: EndpointId) -> None:
        """Learn that an endpoint dropped all its blocks."""
        ...

    def forgotten(self, endpoint: EndpointId) -> None:
        """Learn that nothing known of an endpoint can be relied on."""
        ...


def deliver(endpoint: EndpointId, changes: Iterable[Change], sink: IndexSink) -> None:
    """Hand an endpoint's changes to ``sink``."""
    for change in changes:
        match change:
            case Stored():
                sink.stored(endpoint, change.tier, change.hashes, change.parent)
            case Removed():
                sink.removed(endpoint, change.tier, change.hashes)
            case Cleared():
                sink.cleared(endpoint)
            case Forgotten():
                sink.forgotten(endpoint)
            case SchemeKnown():
                sink.scheme(endpoint, change.scheme)


_PREFIX_KINDS: Final = frozenset(
    {None, "full_attention", "mla_attention", "sink_full_attention", "unknown"}
)
"""Kinds of cache groups in which a hit needs every block from the first on.

Source: vLLM 0.32.0, ``KVCacheSpecKind``. The others keep a window or a state, and drop the rest
of a prefix while it can still be used.
"""

_GROUPS_MAX: Final = 64
_DETECTIONS_MAX: Final = 64


class Changes:
    """Reads one engine's events; remembers its cache groups and whether its scheme is known."""

    def __init__(self, guesses: Guesses) -> None:
        self._guesses = guesses
        self._scheme: BlockScheme | None = None
        self._detections = 0
        self._group: int | None = None
        self._ignored: set[int | None] = set()

    def new_life(self) -> bool:
        """Forget what an engine's restart may have changed; return whether the scheme was known."""
        known = self._scheme is not None
        self._scheme, self._detections = None, 0
        self._group = None
        self._ignored.clear()
        return known

    def of(self, events: Sequence[KvEvent]) -> list[Change]:
        """Return what ``events`` change; runs of removals from one tier are made one."""
        changes: list[Change] = []
        gone: list[WireHash] = []  # an engine evicts one block per event: they are the most
        medium: str | None = None
        for event in events:
            if isinstance(event, BlockRemoved):
                if event.group_idx in self._ignored:
                    continue
                if event.medium != medium:
                    _flush(gone, medium, changes)
                    medium = event.medium
                gone += event.block_hashes
                continue
            _flush(gone, medium, changes)
            if isinstance(event, BlockStored):
                changes += self._stored(event)
            else:
                changes.append(Cleared())
        _flush(gone, medium, changes)
        return changes

    def _stored(self, event: BlockStored) -> list[Change]:
        if not self._counts(event):
            return []
        parent = event.parent_block_hash
        stored = Stored(
            tier_of(event.medium),
            _numbers(event.block_hashes),
            None if parent is None else _number(parent),
        )
        if self._scheme is None and parent is None and self._detections < _DETECTIONS_MAX:
            self._detections += 1
            self._scheme = detect(event, self._guesses)
            if self._scheme is not None:
                return [SchemeKnown(self._scheme), stored]
        return [stored]

    def _counts(self, event: BlockStored) -> bool:
        """Whether the event is of the one cache group that stands for the prefix.

        Hybrid models store a block once per group under one hash. The first group with whole
        prefixes is followed; removals from any such group count, so that too little is claimed.
        Connectors and older engines name no group: their blocks always count.
        """
        if event.kv_cache_spec_kind not in _PREFIX_KINDS:
            if len(self._ignored) < _GROUPS_MAX:
                self._ignored.add(event.group_idx)
            return False
        if self._group is None:
            self._group = event.group_idx
        return event.group_idx is None or event.group_idx == self._group


def tier_of(medium: str | None) -> Tier:
    """Return the tier that an event's ``medium`` means; what is not known counts as the slowest.

    Source: vLLM 0.32.0, ``kv_events.py``: GPU, CPU and STORAGE; None is the older form of GPU.
    """
    if medium is None or medium == "GPU":
        return Tier.GPU
    return Tier.CPU if medium == "CPU" else Tier.DISK


def _flush(gone: list[WireHash], medium: str | None, changes: list[Change]) -> None:
    """Move the removals gathered to ``changes``."""
    if gone:
        changes.append(Removed(tier_of(medium), _numbers(gone)))
        gone.clear()


def _numbers(names: Sequence[WireHash]) -> list[int]:
    return [n if isinstance(n, int) and n >= 0 else _number(n) for n in names]


def _number(name: WireHash) -> int:
    """Return a hash as 64 unsigned bits, which a well-behaved engine's already is."""
    return external(name) if isinstance(name, bytes) else name & 0xFFFF_FFFF_FFFF_FFFF
