"""What to do next for a fleet on Ray, from what is wanted and what is there. Pure.

Level-triggered: looks at everything, remembers nothing. After the actions have taken effect it
returns none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from controller.fleets.ray.names import ReplicaName


class Phase(StrEnum):
    """Where an incarnation of a replica is in its life."""

    WAITING = "waiting"
    """Its placement group finds no room."""
    GATHERING = "gathering"
    """Its supervisor, or another node's member, has not answered yet."""
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    FAILED = "failed"
    """Its engine was given up; it is left as it is, to be looked at."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    BROKEN = "broken"
    """A node or an engine of several nodes was lost: all of it must be made anew."""
    LOST = "lost"
    """Its supervisor is dead, or silent for too long."""


OVER: Final = frozenset({Phase.STOPPED, Phase.BROKEN, Phase.LOST})
_PREFERRED: Final = (
    Phase.READY,
    Phase.BACKING_OFF,
    Phase.STARTING,
    Phase.GATHERING,
    Phase.WAITING,
    Phase.FAILED,
    Phase.STOPPING,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One incarnation, as observed.

    Attributes:
        name: Which.
        phase: Where it is in its life.
        since_s: Since when it is in that phase.
        draining_since_s: When it was told to stop, or None.
        proven: Whether it has generated for us: until then it replaces no other.

    """

    name: ReplicaName
    phase: Phase
    since_s: float
    draining_since_s: float | None = None
    proven: bool = True


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted.

    Attributes:
        fleet: The fleet's name.
        revisions: Of each replica, in order: its length is the number of replicas.
        surge_wait_s: How long a new incarnation may find no room before the old one gives way.
        drain_limit_s: How long one may take to stop before it is removed as it is.
        not_before_s: When a replica may be made, by index, for those that were lost a while ago.

    """

    fleet: str
    revisions: tuple[str, ...]
    surge_wait_s: float
    drain_limit_s: float
    not_before_s: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Create:
    """Reserve room for a replica and start its supervisor there."""

    index: int
    revision: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Send it nothing new, let it finish, stop it."""

    name: ReplicaName


@dataclass(frozen=True, slots=True)
class Remove:
    """End its supervisor, which ends its engine, and give its room back."""

    name: ReplicaName


Action = Create | Drain | Remove


def plan(desired: Desired, seen: Sequence[Seen], now_s: float) -> tuple[Action, ...]:
    """Return what to do now; each action is idempotent.

    A replica whose settings changed is replaced by one that serves before it is drained, one
    replica at a time; a new one that fails holds the others back.
    """
    ours = sorted((one for one in seen if one.name.fleet == desired.fleet), key=lambda s: s.name)
    over = [one for one in ours if one.phase in OVER or _overdue(one, desired, now_s)]
    live = [one for one in ours if one not in over]
    actions: list[Action] = [Remove(one.name) for one in over]
    replacing = False
    for index, revision in enumerate(desired.revisions):
        mine = [one for one in live if one.name.index == index and one.draining_since_s is None]
        new = _best(one for one in mine if one.name.revision == revision)
        old = _best(
            one for one in mine if one.name.revision != revision and one.phase is Phase.READY
        )
        kept = [one for one in (new, old) if one is not None]
        if new is None:
            held = old is not None and replacing
            if not held and now_s >= desired.not_before_s.get(index, now_s):
                actions.append(Create(index, revision))
            replacing = replacing or old is not None
        elif old is not None:
            no_room = new.phase is Phase.WAITING and now_s - new.since_s >= desired.surge_wait_s
            serves = new.phase is Phase.READY and new.proven
            if serves or no_room:
                kept.remove(old)
            replacing = replacing or not serves
        actions += [Drain(one.name) for one in mine if one not in kept]
    wanted = len(desired.revisions)
    actions += [
        Drain(one.name) for one in live if one.name.index >= wanted and one.draining_since_s is None
    ]
    return tuple(actions)


def _overdue(one: Seen, desired: Desired, now_s: float) -> bool:
    since_s = one.draining_since_s
    return since_s is not None and now_s - since_s >= desired.drain_limit_s


def _best(candidates: Iterable[Seen]) -> Seen | None:
    ranked = sorted(candidates, key=lambda one: (_PREFERRED.index(one.phase), one.name))
    return ranked[0] if ranked else None
