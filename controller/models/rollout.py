"""How the replicas of one variant are moved towards what is wanted. Pure.

Nothing here remembers what it did before: names are made from what is there, choices are in a fixed
order, so that the same decision made twice from the same sight asks for the same things, and asking
twice does no harm. That is what lets a controller be killed at any point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from controller.api.model_service import Rollout
from controller.models.state import Replica, VariantMemory

CRASHES: Final = 3
"""Restarts of an engine that never served after which its revision has failed. Kubernetes waits
longer before each, so that this is about a minute."""

MOST_WHY: Final = 200
"""Characters kept of what a replica lacked when its revision failed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one variant should have.

    Attributes:
        replicas: How many.
        revision: Of the template in the spec.
        stored: Revisions whose templates are kept, and can be made again.

    """

    replicas: int
    revision: str
    stored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Moves:
    """What to do with one variant.

    Attributes:
        revision: The one that is being moved to: the wanted, or the stable after it failed.
        create: How many replicas of it to make.
        delete: Replicas to remove, first things first.
        memory: What to remember from now on.
        halted: The wanted revision failed, and there is none to return to.
        again_s: When to look again though nothing changes.

    """

    revision: str
    create: int
    delete: tuple[Replica, ...]
    memory: VariantMemory
    halted: bool = False
    again_s: float | None = None


def moves(
    wanted: Wanted,
    replicas: Sequence[Replica],
    memory: VariantMemory,
    limits: Rollout,
    now_s: float,
) -> Moves:
    """Decide the next moves of one variant.

    Args:
        wanted: What it should have.
        replicas: All that it has, ending ones too.
        memory: What was remembered.
        limits: How far to go beyond or below the wanted number meanwhile.
        now_s: Seconds since the epoch.

    """
    present = [replica for replica in replicas if not replica.ending]
    broken = tuple(replica for replica in present if replica.failed)
    alive = [replica for replica in present if not replica.failed]
    memory = _remember(wanted, alive, memory, limits, now_s)
    target, halted = _target(wanted, memory, limits)
    new = [replica for replica in alive if replica.revision == target]
    old = [replica for replica in alive if replica.revision != target]
    room = wanted.replicas + limits.max_surge - len(alive)
    create = max(0, min(wanted.replicas - len(new), room))
    if halted and old:
        # What serves goes on serving, what is broken stays to be looked at.
        return Moves(target, 0, broken, memory, halted=True)
    again_s = _look_again_s(wanted, new, memory, limits, now_s)
    delete = (*broken, *_leaving(wanted.replicas, new, old, limits))
    return Moves(target, create, delete, memory, halted, again_s)


def names(stem: str, taken: Sequence[Replica], count: int) -> list[str]:
    """Return names for ``count`` new replicas: the lowest numbers that nobody has."""
    used = {replica.name for replica in taken}
    found: list[str] = []
    number = 0
    while len(found) < count:
        name = f"{stem}-{number}"
        if name not in used:
            found.append(name)
        number += 1
    return found


def _remember(
    wanted: Wanted,
    alive: Sequence[Replica],
    memory: VariantMemory,
    limits: Rollout,
    now_s: float,
) -> VariantMemory:
    """Return what is known of the revisions after one more look."""
    memory = replace(memory, revision=wanted.revision)
    own = [replica for replica in alive if replica.revision == wanted.revision]
    if memory.failed != wanted.revision or _came_after_all(wanted, own, memory, limits):
        memory = replace(memory, failed="", because="")
    if memory.failed:
        return memory
    ready = sum(replica.ready for replica in own)
    if own and ready >= wanted.replicas and len(own) == len(alive):
        return replace(memory, stable=wanted.revision)
    because = _gave_up(wanted, own, limits, now_s)
    if memory.stable != wanted.revision and because:
        return replace(memory, failed=wanted.revision, because=because)
    return memory


def _came_after_all(
    wanted: Wanted, own: Sequence[Replica], memory: VariantMemory, limits: Rollout
) -> bool:
    """Whether a revision that failed serves now, late.

    While another is returned to, its replicas that never served are removed, so that those left
    prove nothing until they are enough. Where it stands still, none that waits is enough.
    """
    ready = sum(replica.ready for replica in own)
    enough = wanted.replicas if _returns(wanted, memory, limits) else len(own)
    return ready > 0 and ready >= enough


def _gave_up(wanted: Wanted, own: Sequence[Replica], limits: Rollout, now_s: float) -> str:
    """Return why a revision has failed; "" while it has not."""
    ready = sum(replica.ready for replica in own)
    if not ready and any(replica.restarts >= CRASHES for replica in own):
        return "its engine crashed again and again" + _lacking(own)
    since_s = _waits_since_s(own)
    if since_s is None or now_s - since_s < limits.progress_deadline_seconds:
        return ""
    waited = f"no more for {limits.progress_deadline_seconds} s"
    return f"{ready} of {wanted.replicas} ready, {waited}" + _lacking(own)


def _waits_since_s(own: Sequence[Replica]) -> float | None:
    """Return since when no replica has become ready though some wait; None if none waits.

    Each that becomes ready is progress, however many it takes: only standing still counts.
    """
    waiting = [replica.created_s for replica in own if not replica.ready]
    if not waiting:
        return None
    return max(min(waiting), max((r.ready_since_s for r in own if r.ready), default=0.0))


def _lacking(own: Sequence[Replica]) -> str:
    """Return what the first replica that waits says it waits for, to be appended."""
    why = next((replica.why for replica in own if not replica.ready and replica.why), "")
    return f": {why[:MOST_WHY]}" if why else ""


def _returns(wanted: Wanted, memory: VariantMemory, limits: Rollout) -> bool:
    """Whether there is a good revision to return to when the wanted one fails."""
    return limits.rollback and memory.stable in wanted.stored


def _target(wanted: Wanted, memory: VariantMemory, limits: Rollout) -> tuple[str, bool]:
    """Return the revision to move to, and whether there is nothing sensible to do."""
    if memory.failed != wanted.revision:
        return wanted.revision, False
    if _returns(wanted, memory, limits):
        return memory.stable, False
    return wanted.revision, True


def _leaving(
    count: int, new: Sequence[Replica], old: Sequence[Replica], limits: Rollout
) -> list[Replica]:
    """Return who goes: others' replicas as soon as they are not needed, then what is too many."""
    extra = sorted(new, key=_worth)[: max(0, len(new) - count)]
    leaving = [replica for replica in old if not replica.ready]
    staying_ready = sum(replica.ready for replica in new) - sum(r.ready for r in extra)
    serving = sorted((replica for replica in old if replica.ready), key=_worth)
    needed = max(0, count - limits.max_unavailable)
    spare = staying_ready + len(serving) - needed
    return [*leaving, *serving[: max(0, spare)], *extra]


def _worth(replica: Replica) -> tuple[bool, float, str]:
    """Order replicas by what losing them costs: one not ready first, then the coldest cache."""
    return replica.ready, -replica.created_s, replica.name


def _look_again_s(
    wanted: Wanted,
    new: Sequence[Replica],
    memory: VariantMemory,
    limits: Rollout,
    now_s: float,
) -> float | None:
    """Return when the deadline of a revision passes whose replicas wait."""
    since_s = _waits_since_s(new)
    if memory.stable == wanted.revision or memory.failed or since_s is None:
        return None
    return max(1.0, since_s + limits.progress_deadline_seconds - now_s)
