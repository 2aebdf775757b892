"""Which events to write, so that saying the same often costs little. Pure.

An event that repeats is written once and then counted up, at most every so often. Something whose
message differs each time (counts, times) gets a few events and then counts on the last of them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from headrace.service.kube.resource import Object


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing to tell of an object.

    Attributes:
        regarding: The object; only its kind, name, namespace and uid are told.
        kind_type: ``Normal`` or ``Warning``.
        reason: In CamelCase: what a program would look for.
        note: For people.

    """

    regarding: Object
    kind_type: str
    reason: str
    note: str

    @property
    def subject(self) -> tuple[str, str, str]:
        """What it repeats, whatever it says."""
        return str(self.regarding["metadata"].get("uid", "")), self.kind_type, self.reason


@dataclass(frozen=True, slots=True)
class EventLimits:
    """Bounds on events.

    Attributes:
        window_s: An event not seen for longer is told anew. Source: client-go's event aggregator,
            10 minutes.
        notes: Events about one object for one reason that differ in their message only.
        repeat_s: Least time between two writes about the same event.
        subjects: Objects and reasons that are remembered; the one not seen for longest goes first.

    """

    window_s: float = 600.0
    notes: int = 5
    repeat_s: float = 30.0
    subjects: int = 2_048


@dataclass(slots=True)
class Told:
    """An event as far as it has been told.

    Attributes:
        first: What was to be told.
        count: How often it has been seen.
        last_s: When last.
        name: Of its object; "" before it is written.
        due_s: When it may be written next.

    """

    first: Happening
    count: int
    last_s: float
    name: str = ""
    due_s: float = 0.0


@dataclass(slots=True)
class EventLog:
    """Every event of the last minutes, and which of them are to be written.

    Attributes:
        limits: Bounds.
        dropped: Events forgotten before they were written: too many others came.

    """

    limits: EventLimits = field(default_factory=EventLimits)
    dropped: int = 0
    _subjects: OrderedDict[tuple[str, str, str], list[Told]] = field(default_factory=OrderedDict)
    _pending: dict[int, Told] = field(default_factory=dict)

    def tell(self, happening: Happening, now_s: float) -> None:
        """Take in one event."""
        subject = happening.subject
        recent = [
            told
            for told in self._subjects.pop(subject, ())
            if now_s - told.last_s <= self.limits.window_s or id(told) in self._pending
        ]
        self._subjects[subject] = recent
        found = next((told for told in recent if told.first.note == happening.note), None)
        if found is None and len(recent) >= self.limits.notes:
            found = recent[-1]
        if found is None:
            found = Told(happening, 0, now_s, due_s=now_s)
            recent.append(found)
        found.count += 1
        found.last_s = now_s
        self._pending[id(found)] = found
        while len(self._subjects) > self.limits.subjects:
            for told in self._subjects.popitem(last=False)[1]:
                self.dropped += self._pending.pop(id(told), None) is not None

    def take(self, now_s: float) -> Told | None:
        """Return an event to write now, and count on that; None while none is due."""
        due = next((told for told in self._pending.values() if told.due_s <= now_s), None)
        if due is not None:
            del self._pending[id(due)]
            due.due_s = now_s + self.limits.repeat_s
        return due

    def next_s(self) -> float | None:
        """Return when the next one is due; None while nothing is to be written."""
        return min((told.due_s for told in self._pending.values()), default=None)
