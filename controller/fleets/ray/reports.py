"""What supervisors are told and what they tell, as bytes: JSON that other versions can read."""

from __future__ import annotations

import msgspec

from controller.fleets.ray.plan import Phase
from headrace.core.endpoint import Speed


class Engine(msgspec.Struct, frozen=True):
    """One life of an engine: where it serves.

    Attributes:
        life: Unique among the lives of its replica.
        url: Reachable from every node.
        role: What it does when prefill and decode are disaggregated.
        simulated: Whether it is a simulated one.
        events: ZeroMQ address of its KV events, or None.
        replay: Of past ones.
        topic: Of both.
        models: What it serves, as far as that is to be known before it is asked.
        speed: As presumed or measured, or None.

    """

    life: str
    url: str
    role: str
    simulated: bool
    events: str | None = None
    replay: str | None = None
    topic: str = ""
    models: tuple[str, ...] = ()
    speed: Speed | None = None


class Report(msgspec.Struct, frozen=True):
    """A replica, as its supervisor knows it.

    Attributes:
        phase: Where it is in its life.
        node: Address of the node that its engine is on.
        engine: Its engine's present life, or None while it has none.
        pid: Of the engine.
        joined: Nodes that have answered, the engine's own included.
        members: Addresses of all nodes that have answered, in the order of their shares.
        crashes: Of its engine, so far.
        why: What last went wrong.
        log: Where the engine's log is, on its node.

    """

    phase: Phase
    node: str
    engine: Engine | None = None
    pid: int | None = None
    joined: int = 1
    members: tuple[str, ...] = ()
    crashes: int = 0
    why: str = ""
    log: str = ""


class Assignment(msgspec.Struct, frozen=True):
    """What a supervisor is to run.

    Attributes:
        name: Of its incarnation.
        index: Which replica of the fleet it is.
        settings: The fleet's, as JSON.

    """

    name: str
    index: int
    settings: str


def encode(value: Report | Assignment) -> bytes:
    """Return it as bytes."""
    return msgspec.json.encode(value)


def read_report(data: bytes) -> Report:
    """Return the report; unknown fields are passed over."""
    return msgspec.json.decode(data, type=Report)


def read_assignment(data: bytes) -> Assignment:
    """Return the assignment; unknown fields are passed over."""
    return msgspec.json.decode(data, type=Assignment)
