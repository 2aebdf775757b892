"""Who leads, by a ``coordination.k8s.io`` Lease: what to do next, and for how long we may. Pure.

No clock is compared with another's. Who follows measures on its own clock how long a lease has not
changed; who leads counts from the moment it *sent* a write that succeeded, so however late the
answer comes, it stops before others may take over. Of two writes that start from the same version
the API server lets one succeed.

Source: the rules of client-go v0.34, tools/leaderelection, but counting from the sending.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from headrace.core.errors import ConfigError


class Move(StrEnum):
    """What a candidate does next."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a lease is good for.

    A leader that cannot renew stops at ``renew_s``; others take over ``duration_s`` after the last
    change they saw. What lies between is for its work to stop in, and for clocks that run at
    different speeds.

    Attributes:
        duration_s: Whole seconds, as the API keeps no fractions.
        renew_s: How long the leader leads after it sent a write that succeeded.
        retry_s: Between two attempts, and between two renewals.

    """

    duration_s: int = 15
    renew_s: float = 10.0
    retry_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.renew_s < self.duration_s:
            raise ConfigError("a lease needs 0 < retry_s < renew_s < duration_s")


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as last read or written.

    Attributes:
        holder: Who leads; "" when it was given back.
        duration_s: What its holder promised: it stops before, unless it renews.
        transitions: How often the holder changed.
        acquired: When the holder became so, as its own clock has it: for people only.
        version: The resource version.

    """

    holder: str
    duration_s: int
    transitions: int = 0
    acquired: str | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one candidate knows; times on its own clock.

    Attributes:
        lease: As last read or written; None when there is none.
        seen_s: When that version of it was first seen.
        leads_until_s: When we stop leading, unless we renew; None when we do not lead.

    """

    lease: Lease | None = None
    seen_s: float = 0.0
    leads_until_s: float | None = None

    def leads(self, now_s: float) -> bool:
        """Whether we lead now."""
        return self.leads_until_s is not None and now_s < self.leads_until_s


def saw(standing: Standing, lease: Lease | None, now_s: float) -> Standing:
    """Return ``standing`` after a read that was answered at ``now_s``.

    A read never makes anybody lead, nor longer; but it shows when another has taken over.
    """
    before = standing.lease
    if before is not None and lease is not None and before.version == lease.version:
        return standing
    leads = standing.leads_until_s
    if lease is None or before is None or lease.holder != before.holder:
        leads = None
    return Standing(lease, now_s, leads)


def wrote(standing: Standing, lease: Lease, me: str, sent_s: float, terms: Terms) -> Standing:
    """Return ``standing`` after a write of ours succeeded.

    Args:
        standing: From before.
        lease: As the API server returned it.
        me: Our name.
        sent_s: When the write was sent.
        terms: What we promised.

    """
    leads = sent_s + terms.renew_s if lease.holder == me else None
    return replace(standing, lease=lease, seen_s=sent_s, leads_until_s=leads)


def decide(standing: Standing, me: str, now_s: float) -> Move:
    """Return what to do now, given a lease that was just read.

    A lease that names us without our leading (we were away for too long, and nobody minded) is
    taken like any other, without waiting: its version shows that nobody else has had it since.
    """
    lease = standing.lease
    if lease is None:
        return Move.CREATE
    if standing.leads(now_s):
        return Move.RENEW
    if lease.holder in ("", me) or now_s - standing.seen_s >= lease.duration_s:
        return Move.TAKE
    return Move.WAIT


def claimed(lease: Lease | None, me: str, terms: Terms, time_of_day: str) -> Lease:
    """Return the lease that says that we lead, to be written over ``lease``."""
    if lease is None:
        return Lease(me, terms.duration_s, 0, time_of_day)
    if lease.holder == me:
        return replace(lease, duration_s=terms.duration_s)
    return Lease(me, terms.duration_s, lease.transitions + 1, time_of_day, lease.version)


def given_back(lease: Lease) -> Lease:
    """Return the lease that anybody may take at once. Write it only when all work has stopped."""
    return replace(lease, holder="", duration_s=1, acquired=None)


def lease_of(obj: dict[str, Any]) -> Lease:
    """Read a Lease object; one that was made by hand may lack any field."""
    spec = obj.get("spec") or {}
    return Lease(
        holder=spec.get("holderIdentity") or "",
        duration_s=spec.get("leaseDurationSeconds") or 0,
        transitions=spec.get("leaseTransitions") or 0,
        acquired=spec.get("acquireTime"),
        version=obj["metadata"]["resourceVersion"],
    )


def object_of(lease: Lease, namespace: str, name: str, time_of_day: str) -> dict[str, Any]:
    """Return the Lease object to write; without a version it is one to create.

    Args:
        lease: What it says.
        namespace: Where.
        name: Of the object.
        time_of_day: Now, as RFC 3339 with microseconds: for people only.

    """
    metadata = {"name": name, "namespace": namespace}
    if lease.version:
        metadata["resourceVersion"] = lease.version
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": lease.holder,
            "leaseDurationSeconds": lease.duration_s,
            "leaseTransitions": lease.transitions,
            "renewTime": time_of_day,
            **({"acquireTime": lease.acquired} if lease.acquired is not None else {}),
        },
    }
