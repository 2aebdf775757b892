"""What it takes to start an engine. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from headrace.core.endpoint import KvEventSource, Role


class EngineKind(StrEnum):
    """The engines a fleet can run."""

    SIMULATED = "simulated"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to start.

    Attributes:
        program: What to run, up to its own arguments.
        args: Its arguments; all that a prefork launcher needs.
        env: Variables set on top of ours.
        ports: HTTP ports of ``host`` that it will serve, one per endpoint.
        kv_events: One per port, in the same order; empty when events are off.
        simulated: Whether the engines are simulated ones.
        roles: One per port, in the same order; empty when all do both.
        host: The address it listens on, at which others reach it too.

    """

    program: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    ports: tuple[int, ...]
    kv_events: tuple[KvEventSource, ...] = ()
    simulated: bool = False
    roles: tuple[Role, ...] = ()
    host: str = "127.0.0.1"
