"""What the fleet knows of one incarnation of a replica, and what phase that makes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from controller.fleets.ray.names import ReplicaName
from controller.fleets.ray.plan import Phase, Seen
from controller.fleets.ray.reports import Report
from controller.fleets.unit import UnitState, UnitStatus
from headrace.core.endpoint import EndpointView, Health, KvEventSource, Role, Speed
from headrace.core.ids import EndpointId, ModelName

_STATES: Final = {
    Phase.WAITING: UnitState.STARTING,
    Phase.GATHERING: UnitState.STARTING,
    Phase.STARTING: UnitState.STARTING,
    Phase.READY: UnitState.READY,
    Phase.BACKING_OFF: UnitState.BACKING_OFF,
    Phase.FAILED: UnitState.FAILED,
    Phase.STOPPING: UnitState.STOPPING,
    Phase.STOPPED: UnitState.STOPPED,
    Phase.BROKEN: UnitState.BACKING_OFF,
    Phase.LOST: UnitState.BACKING_OFF,
}


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an incarnation.

    Attributes:
        supervised: Whether Ray knows of a supervisor that is not dead.
        placed: Whether every share has its room.
        report: What the supervisor told, or None.
        died: Whether Ray said, when asked, that the supervisor is dead.

    """

    supervised: bool
    placed: bool
    report: Report | None = None
    died: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How long may pass. Seconds.

    Attributes:
        lost_after_s: Of silence, until a supervisor that has answered counts as lost.
        start_s: The same for one that has not answered yet.

    """

    lost_after_s: float
    start_s: float


@dataclass(frozen=True, slots=True)
class Sight:
    """One incarnation over time.

    Attributes:
        name: Which.
        phase: Where it is in its life.
        since_s: Since when.
        report: The last one, or None before the first.
        heard_at_s: When it or, before it, room was found.
        proven: Whether its endpoint has generated for us.
        draining_since_s: When it was told to stop, or None.
        why: What it waits for or died of.

    """

    name: ReplicaName
    phase: Phase
    since_s: float
    report: Report | None = None
    heard_at_s: float | None = None
    proven: bool = False
    draining_since_s: float | None = None
    why: str = ""

    def seen(self) -> Seen:
        """Return what a plan is made from."""
        return Seen(self.name, self.phase, self.since_s, self.draining_since_s, self.proven)

    @property
    def serves(self) -> bool:
        """Whether its supervisor says so and it has generated for us."""
        return self.phase is Phase.READY and self.proven


def looked(before: Sight | None, name: ReplicaName, look: Look, now_s: float, lim: Limits) -> Sight:
    """Return what is known after one more look."""
    sight = before or Sight(name, Phase.WAITING, now_s)
    if look.report is not None:
        sight = replace(sight, report=look.report, heard_at_s=now_s, why=look.report.why)
    elif look.placed and sight.heard_at_s is None:
        sight = replace(sight, heard_at_s=now_s)
    phase, why = _phase(sight, look, now_s, lim)
    since_s = sight.since_s if phase is sight.phase else now_s
    return replace(sight, phase=phase, since_s=since_s, why=why or sight.why)


def _phase(sight: Sight, look: Look, now_s: float, lim: Limits) -> tuple[Phase, str]:
    if look.died or not look.supervised:
        return Phase.LOST, "its supervisor died"
    if look.report is not None:
        return look.report.phase, ""
    if not look.placed:
        if sight.report is None:
            return Phase.WAITING, ""
        return Phase.BROKEN, "a node of the replica was lost"
    assert sight.heard_at_s is not None
    limit_s = lim.start_s if sight.report is None else lim.lost_after_s
    if now_s - sight.heard_at_s >= limit_s:
        return Phase.LOST, f"its supervisor has been silent for {limit_s} s"
    return (Phase.GATHERING if sight.report is None else sight.phase), ""


def endpoint_of(sight: Sight, model: ModelName, speed: Speed) -> EndpointView | None:
    """Return the endpoint that its engine's present life is, or None while it has none."""
    report = sight.report
    if report is None or report.engine is None or sight.phase in (Phase.LOST, Phase.BROKEN):
        return None
    engine = report.engine
    life = engine.life.partition(".")[2]
    events = None
    if engine.events is not None:
        events = KvEventSource(engine.events, engine.replay, engine.topic)
    return EndpointView(
        EndpointId(f"{sight.name.short}.{life}" if life else sight.name.short),
        engine.url,
        (model,),
        role=Role(engine.role),
        health=Health.READY if sight.draining_since_s is None else Health.DRAINING,
        speed=speed,
        kv_events=events,
        simulated=engine.simulated,
    )


def status_of(sight: Sight, endpoint: EndpointView | None) -> UnitStatus:
    """Return it in the words of every fleet."""
    report = sight.report
    state = _STATES[sight.phase]
    if state is UnitState.READY and not sight.serves:
        state = UnitState.STARTING
    return UnitStatus(
        name=sight.name.short,
        state=state if sight.draining_since_s is None else UnitState.STOPPING,
        pid=report.pid if report is not None else None,
        endpoints=(endpoint.endpoint_id,) if endpoint is not None else (),
        kv_events=(endpoint.kv_events,) if endpoint is not None and endpoint.kv_events else (),
        log=Path(report.log if report is not None else ""),
        crashes=report.crashes if report is not None else 0,
        why=sight.why,
        node=report.node if report is not None else "",
    )
