"""Endpoints as last reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from headrace.core.ids import EndpointId, ModelName


class Role(StrEnum):
    """What an endpoint does when prefill and decode are disaggregated."""

    BOTH = "both"
    PREFILL = "prefill"
    DECODE = "decode"


class Health(StrEnum):
    """Whether an endpoint may be given new requests."""

    READY = "ready"
    DRAINING = "draining"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast an endpoint is thought to be before we have measured it.

    Attributes:
        prefill_tokens_per_s: Prompt tokens computed per second when busy with nothing else.
        kv_tokens: Tokens its KV cache holds.

    """

    prefill_tokens_per_s: float = 8_000.0
    kv_tokens: int = 400_000


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's own report; ``at_s`` is when it was true, on the reader's clock."""

    running: int
    waiting: int
    kv_used_ratio: float
    at_s: float


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One endpoint, as discovery and the last probe describe it.

    ``models`` are the names it serves, base model first. ``url`` has no trailing slash.
    """

    endpoint_id: EndpointId
    url: str
    models: tuple[ModelName, ...]
    role: Role = Role.BOTH
    health: Health = Health.READY
    speed: Speed = field(default_factory=Speed)
    load: EngineLoad | None = None
