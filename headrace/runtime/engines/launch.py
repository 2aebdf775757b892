"""What it takes to start an engine and to know it: one value and one protocol. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EngineKind(StrEnum):
    """The engines a fleet can run."""

    SIMULATED = "simulated"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class KvEventAddress:
    """Where an engine publishes its KV events, and where it replays them (ZMQ addresses)."""

    publish: str
    replay: str
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to start.

    Attributes:
        argv: Program and arguments; with a prefork launcher, the first is only a name.
        env: Variables set on top of ours.
        ports: HTTP ports on loopback that it will serve, one per endpoint.
        kv_events: One per port, in the same order; empty when events are off.

    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    ports: tuple[int, ...]
    kv_events: tuple[KvEventAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class StopRules:
    """How an engine is asked to end once nothing new is sent to it.

    Attributes:
        finish_s: What it allows its own requests in flight after SIGTERM.
        kill_after_s: Seconds after SIGTERM at which its process group is killed.

    """

    finish_s: float = 20.0
    kill_after_s: float = 25.0


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What differs between engines and matters to whoever runs and probes them.

    Attributes:
        health_path: Answers 200 while the process can serve.
        generate_path: Where a one-token request proves that it does.
        stop: How it ends.

    """

    kind: EngineKind
    health_path: str = "/health"
    generate_path: str = "/v1/completions"
    stop: StopRules = field(default_factory=StopRules)
