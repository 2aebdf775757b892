"""What is compared: our router, every rival, and their oracle forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bench.rivals.catalog import ORACLE, RIVALS
from headrace.twin.placement import Placement
from headrace.twin.production import ProductionRouter
from router.catalog import DEFAULT_POLICY

OURS: Final = "headrace"

FLOOR: Final = "floor"
"""No contender: what none can do better."""

STRONG: Final = ("mooncake", "lmetric", "dynamo", OURS)
"""Capacity is that of the best of these. The first is searched for most; it is not ours, so that a
change of our code leaves most of those runs as they were."""


def _ours(seed: int) -> Placement:
    return ProductionRouter(DEFAULT_POLICY, seed)


CONTENDERS: Final[Mapping[str, Callable[[int], Placement]]] = MappingProxyType(
    {OURS: _ours, **RIVALS}
)


def is_oracle(policy: str) -> bool:
    """Return whether it knows what no router could; shown, but never the best rival."""
    return policy.endswith(ORACLE)
