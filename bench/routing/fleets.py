"""The fleets that requests are routed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from headrace.simulator.presets import engine_spec
from headrace.simulator.spec import EngineSpec

MODEL: Final = "Llama-3.1-8B"
"""The model that the simulated engine was held against real logs with."""

FLEETS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {"h100": ("H100",) * 8, "mixed": ("H100", "L40S") * 4}
)
"""Cards by fleet, one engine each. By id they alternate, so that no order favours either card."""


def specs_of(fleet: str) -> list[EngineSpec]:
    """Return the engines of a fleet."""
    return [engine_spec(card, MODEL) for card in FLEETS[fleet]]


def context_tokens() -> int:
    """Return the longest prompt plus output that every engine of every fleet takes."""
    cards = {card for cards in FLEETS.values() for card in cards}
    return min(engine_spec(card, MODEL).context_tokens for card in cards)
