"""Turns one engine's numbered batches into changes to the index, in order and without holes. Pure.

A hole is filled by a replay. Where that is impossible, and where the engine turns out to be a new
life of the old one, all that is known of it is forgotten: the index may claim too little, never
too much. Who calls it owns the sockets and the clock (``kvcache.shell.subscriber``).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from xxhash import xxh3_64_intdigest

from kvcache.changes import Change, Changes, Forgotten, SchemeKnown
from kvcache.events import MalformedEvents, decode_batch
from kvcache.scheme import NO_GUESSES, Guesses


class StreamState(StrEnum):
    """Whether the index is being brought up to date, or follows."""

    SYNCED = "synced"
    REPLAYING = "replaying"


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of one stream.

    Attributes:
        held_batches: Live batches kept while a replay is under way; beyond them it is given up.
        held_bytes: The same in bytes of payload.
        recent_batches: Applied batches whose digest is kept, to tell a late copy from a new life.

    """

    held_batches: int = 10_000
    held_bytes: int = 64 * 2**20
    recent_batches: int = 1_024


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay to be asked for; its answers are given back under its number."""

    number: int
    start_seq: int


@dataclass(frozen=True, slots=True)
class Position:
    """The last batch applied: where a stream goes on from, if the engine is still the same."""

    seq: int
    digest: int


@dataclass(slots=True)
class StreamCounters:
    """Totals since the stream began.

    Attributes:
        applied: Batches.
        duplicates: Batches that came again or too late, and were ignored.
        gaps: Times that a number was missing.
        replays: Replays asked for.
        failed_replays: Those that were given up.
        resyncs: Times that all was forgotten because batches are lost for good.
        restarts: Times that all was forgotten because the engine is a new life.
        malformed: Batches that could not be read.

    """

    applied: int = 0
    duplicates: int = 0
    gaps: int = 0
    replays: int = 0
    failed_replays: int = 0
    resyncs: int = 0
    restarts: int = 0
    malformed: int = 0


_START: Final = -1
"""What ``_last`` is before batch 0. None stands for: any batch may be the first."""


class EventStream:
    """One endpoint's stream. Each method returns the changes to make, in order.

    Args:
        replays: Whether the engine can replay.
        limits: Bounds.
        guesses: What its block scheme may be.
        resume: Where an earlier stream ended, if what it said is still in the index.

    """

    def __init__(
        self,
        *,
        replays: bool,
        limits: StreamLimits | None = None,
        guesses: Guesses = NO_GUESSES,
        resume: Position | None = None,
    ) -> None:
        self.counters = StreamCounters()
        self.heard_s: float | None = None
        self._replays = replays
        self._limits = limits or StreamLimits()
        self._changes = Changes(guesses)
        self._recent: OrderedDict[int, int] = OrderedDict()  # seq -> digest of its payload
        self._last: int | None = None
        if resume is not None:
            self._last = resume.seq
            self._recent[resume.seq] = resume.digest
        self._knows = resume is not None  # whether the index has anything of this endpoint
        self._engine_s = 0.0
        self._replay: Replay | None = None
        self._ask: Replay | None = None
        self._verifying = False
        self._checking = False  # a replay is under way though nothing is known to be missing
        self._held: dict[int, bytes] = {}
        self._held_bytes = 0
        self._cold = False  # a replay was given up: what was before it is not known

    @property
    def state(self) -> StreamState:
        """Whether a replay is under way."""
        return StreamState.SYNCED if self._replay is None else StreamState.REPLAYING

    @property
    def position(self) -> Position | None:
        """The last batch applied, or None before the first."""
        last = self._last
        if last is None or last == _START:
            return None
        return Position(last, self._recent[last])

    @property
    def engine_s(self) -> float:
        """Unix time at the engine of the last batch applied; 0 before the first."""
        return self._engine_s

    def take_request(self) -> Replay | None:
        """Return the replay to ask for now, once. It replaces any asked for before."""
        ask, self._ask = self._ask, None
        return ask

    def connected(self) -> list[Change]:
        """Note a connection, the first or a new one: something may have been missed before it."""
        if self._replays:
            return self._recover()
        self._last = None
        return self._resync()

    def lost(self) -> list[Change]:
        """Take the engine to be gone; a connection after this begins anew, from batch 0."""
        self._replay = self._ask = None
        self._verifying = False
        changes = self._new_life()
        self._last, self._cold = None, True
        return changes

    def check_up(self) -> list[Change]:
        """Ask whether the last batch is still the last; call it now and then.

        Nothing else tells of a lost batch with none behind it. It also makes up for a replay that
        was given up.
        """
        if self._replay or not self._replays:
            return []
        changes = self._recover()
        self._checking = self._verifying
        return changes

    def _recover(self) -> list[Change]:
        changes: list[Change] = []
        if self._cold:
            self._cold, self._last = False, _START
            changes = self._forget()
        self._request()
        return changes

    def live(self, seq: int, payload: bytes, now_s: float) -> list[Change]:
        """Take a published batch."""
        self.heard_s = now_s
        if seq < 0:
            self.counters.malformed += 1
            return []
        if self._replay and not self._goes_on(seq, self._replay):
            return self._hold(seq, payload)
        return self._take(seq, payload)

    def replayed(self, number: int, seq: int, payload: bytes, now_s: float) -> list[Change]:
        """Take a batch that came in answer to the replay of that number."""
        self.heard_s = now_s
        if self._replay is None or self._replay.number != number:
            return []
        last = self._last
        if self._verifying and last is not None and self._replay.start_seq <= seq <= last:
            self._verifying = False
            return [] if self._recent.get(seq) == _digest(payload) else self._restart()
        if last is not None and seq <= last:
            self.counters.duplicates += 1
            return []
        changes: list[Change] = []
        if self._verifying or (last is not None and seq != last + 1):
            self._verifying = False
            changes = self._resync()  # the engine keeps no older batches, or some were lost
        return changes + self._apply(seq, payload)

    def replay_ended(self, number: int) -> list[Change]:
        """Take the end of a replay; go on with what was published meanwhile."""
        if self._replay is None or self._replay.number != number:
            return []
        if self._verifying:  # it has not even the last batch that we have
            return self._restart()
        if self._last is None:
            self._last = _START  # nothing was published yet
        return self._go_on()

    def replay_failed(self, number: int) -> list[Change]:
        """Give a replay up: forget, and start again with the oldest batch that was held."""
        if self._replay is None or self._replay.number != number:
            return []
        return self._give_up()

    def _take(self, seq: int, payload: bytes, *, fillable: bool = True) -> list[Change]:
        last = self._last
        if last is None or seq == last + 1:
            return self._apply(seq, payload)
        if seq <= last:
            return self._late(seq, payload)
        self.counters.gaps += 1
        if self._replays and fillable:
            self._request()
            return self._hold(seq, payload)
        if _made_s(payload) < self._engine_s:  # of the life before this one
            self.counters.duplicates += 1
            return []
        return [*self._resync(), *self._apply(seq, payload)]

    def _late(self, seq: int, payload: bytes) -> list[Change]:
        """Tell a copy of what was applied, or skipped, from the beginning of a new life."""
        known = self._recent.get(seq)
        if known is not None:
            same = known == _digest(payload)
        else:
            same = _made_s(payload) <= self._engine_s
        if same:
            self.counters.duplicates += 1
            return []
        changes = self._restart()
        return changes if self._replay else changes + self._apply(seq, payload)

    def _goes_on(self, seq: int, replay: Replay) -> bool:
        """Whether a batch follows the last one while only a check-up is under way.

        An engine may take a tenth of a second to answer one; what it did is known meanwhile.
        """
        return (
            self._checking
            and not self._held
            and self._last is not None
            and seq == self._last + 1
            and seq - replay.start_seq < self._limits.recent_batches
        )

    def _hold(self, seq: int, payload: bytes) -> list[Change]:
        """Keep a live batch until the replay has ended."""
        other = self._held.get(seq)
        if other is not None:
            if other == payload:
                self.counters.duplicates += 1
                return []
            return self._restart()  # meanwhile; the new life's replay has this batch too
        self._held[seq] = payload
        self._held_bytes += len(payload)
        if (
            len(self._held) > self._limits.held_batches
            or self._held_bytes > self._limits.held_bytes
        ):
            return self._give_up()
        return []

    def _request(self) -> None:
        """Ask for the last batch again, to see that it is the same, and all behind it."""
        self.counters.replays += 1
        self._checking = False
        self._verifying = self._last is not None and self._last != _START
        self._replay = self._ask = Replay(self.counters.replays, max(0, self._last or 0))

    def _go_on(self) -> list[Change]:
        """Follow again, beginning with the batches held."""
        self._replay = self._ask = None
        held = sorted(self._held.items())
        self._drop_held()
        before = self._last
        changes: list[Change] = []
        for seq, payload in held:
            if self._replay:
                changes += self._hold(seq, payload)
            else:  # a gap right behind a replay is one that no replay fills
                changes += self._take(seq, payload, fillable=self._last != before)
        return changes

    def _give_up(self) -> list[Change]:
        self.counters.failed_replays += 1
        changes = self._resync()
        self._last, self._cold = None, True
        return changes + self._go_on()

    def _resync(self) -> list[Change]:
        if self._knows:
            self.counters.resyncs += 1
        return self._forget()

    def _restart(self) -> list[Change]:
        """Begin a new life of the engine at its first batch."""
        self.counters.restarts += 1
        changes = self._new_life()
        self._last = _START if self._replays else None
        if self._replays:
            self._request()
        return changes

    def _new_life(self) -> list[Change]:
        changes = self._forget()
        if self._changes.new_life():
            changes.append(SchemeKnown(None))
        self._drop_held()  # what was published before the replay that follows is in it
        self._recent.clear()
        self._engine_s = 0.0
        return changes

    def _forget(self) -> list[Change]:
        knew, self._knows = self._knows, False
        return [Forgotten()] if knew else []

    def _apply(self, seq: int, payload: bytes) -> list[Change]:
        self._last = seq
        self._recent[seq] = _digest(payload)
        if len(self._recent) > self._limits.recent_batches:
            self._recent.popitem(last=False)
        try:
            batch = decode_batch(payload)
            changes = self._changes.of(batch.events)
        except MalformedEvents:
            self.counters.malformed += 1
            return self._resync()
        self.counters.applied += 1
        self._engine_s = batch.ts
        self._knows = True
        return changes

    def _drop_held(self) -> None:
        self._held = {}
        self._held_bytes = 0


def _digest(payload: bytes) -> int:
    return xxh3_64_intdigest(payload)


def _made_s(payload: bytes) -> float:
    """Return the engine's time in a batch; later than any where it cannot be read."""
    try:
        return decode_batch(payload).ts
    except MalformedEvents:
        return math.inf
