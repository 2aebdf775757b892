"""What the controller sees of a service, and what it can do about it. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from controller.api.model_service import ModelServiceSpec

Object = Mapping[str, Any]
"""A Kubernetes object as it is on the wire."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The ModelService that objects belong to."""

    name: str
    namespace: str
    uid: str
    generation: int


@dataclass(frozen=True, slots=True)
class Replica:
    """One engine as observed: a pod, or a RayCluster of several.

    Attributes:
        name: Of the object.
        uid: Of the object; a replica of the same name made later has another.
        variant: It belongs to.
        revision: Of the template that it was made from.
        kind: ``Pod`` or ``RayCluster``.
        ready: It answers generations.
        ready_since_s: When it last began to, seconds since the epoch; 0 while it does not.
        ending: It has been told to go; its streams may still run.
        failed: It has ended by itself, or its node evicted it.
        created_s: When it was made, seconds since the epoch.
        restarts: Of its engine.
        why: What keeps it from being ready, for people; "" when nothing is known.

    """

    name: str
    uid: str
    variant: str
    revision: str
    kind: Literal["Pod", "RayCluster"] = "Pod"
    ready: bool = False
    ready_since_s: float = 0.0
    ending: bool = False
    failed: bool = False
    created_s: float = 0.0
    restarts: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class VariantMemory:
    """What the status remembers of a variant, which no other object tells.

    Attributes:
        revision: The newest that was tried.
        stable: The last all of whose replicas were ready.
        failed: One that did not become ready in time, and is not tried again.
        because: How far it came, and what it lacked, for people.

    """

    revision: str = ""
    stable: str = ""
    failed: str = ""
    because: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything a decision about one service is made from.

    Attributes:
        owner: The service.
        spec: What it asks for.
        replicas: That carry its label.
        memory: By variant name.
        templates: Stored templates by revision, to return to one that is not in the spec any more.
        status: As it is now.
        others: Other objects of the service that are there, by kind and name.
        kinds: Kinds of others that the cluster serves.

    """

    owner: Owner
    spec: ModelServiceSpec
    replicas: tuple[Replica, ...] = ()
    memory: Mapping[str, VariantMemory] = field(default_factory=dict)
    templates: Mapping[str, Object] = field(default_factory=dict)
    status: Object = field(default_factory=dict)
    others: Mapping[tuple[str, str], Object] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset({"Pod", "PodDisruptionBudget", "ControllerRevision"})


@dataclass(frozen=True, slots=True)
class Create:
    """Make an object; that it exists is no error."""

    manifest: Object


@dataclass(frozen=True, slots=True)
class Apply:
    """Have the fields of an object as given; other fields stay as they are."""

    manifest: Object


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one object, and only the one with this uid; that it is gone is no error."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Write the status of the service."""

    status: Object


@dataclass(frozen=True, slots=True)
class Tell:
    """Write an event that operators see."""

    warning: bool
    reason: str
    message: str


Action = Create | Apply | Delete | SetStatus | Tell


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, and when to look again even if nothing changes."""

    actions: tuple[Action, ...]
    again_s: float | None = None
