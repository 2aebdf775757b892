"""What a replica asks of the cluster, and which settings make it another one. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from controller.fleets.config import FleetSettings
from controller.fleets.ray.config import Placement
from headrace.core.endpoint import Role
from headrace.runtime.engines.launch import EngineKind

REVISION_CHARS: Final = 10
OTHER_SETTINGS: Final = frozenset(
    {"kind", "replicas", "roles", "gpus", "probe", "state_dir", "starts_at_once", "log_limit_bytes"}
)
"""Settings that may change under a running replica: they are not of its engine."""

ENGINE_RAY: Final = frozenset({"cards_per_node", "cpus_per_node", "resources", "placement"})
"""The settings of ``ray`` that may not."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the placement group of one replica asks for: one bundle per node."""

    bundles: tuple[Mapping[str, float], ...]
    placement: Placement


def cards_per_node(settings: FleetSettings) -> int:
    """Return Ray's GPUs of each node of a replica."""
    if settings.ray.cards_per_node is not None:
        return settings.ray.cards_per_node
    if settings.engine is EngineKind.SIMULATED:
        return 0
    return settings.cards * settings.pp // settings.nodes


def demand(settings: FleetSettings) -> Demand:
    """Return what a replica asks of the cluster."""
    bundle = {"CPU": settings.ray.cpus_per_node, **settings.ray.resources}
    cards = cards_per_node(settings)
    if cards:
        bundle["GPU"] = float(cards)
    default = Placement.STRICT_SPREAD if settings.nodes > 1 else Placement.STRICT_PACK
    return Demand((bundle,) * settings.nodes, settings.ray.placement or default)


def role_of(settings: FleetSettings, index: int) -> Role:
    """Return what the replica does when prefill and decode are disaggregated."""
    return settings.roles[index] if settings.roles else Role.BOTH


def revision(settings: FleetSettings, index: int) -> str:
    """Return a hash of all that makes the replica's engine what it is; stable between processes."""
    values = settings.model_dump(mode="json", exclude=set(OTHER_SETTINGS))
    values["ray"] = {key: values["ray"][key] for key in sorted(ENGINE_RAY)}
    values["role"] = role_of(settings, index).value
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:REVISION_CHARS]


def why_waiting(
    asked: Demand, nodes: Sequence[Mapping[str, float]], free: Mapping[str, float]
) -> str:
    """Say what a placement group that finds no room asks for, and what the cluster has.

    Args:
        asked: What the replica asks for.
        nodes: All resources of each node that is alive, by Ray's names.
        free: What nobody has reserved, over all nodes.

    """
    bundle = asked.bundles[0]
    fit = sum(all(node.get(name, 0.0) >= need for name, need in bundle.items()) for node in nodes)
    count = len(asked.bundles)
    has = ", ".join(
        f"{_number(free.get(name, 0.0))} of {_number(sum(node.get(name, 0.0) for node in nodes))} "
        f"{name} free"
        for name in sorted(bundle)
    )
    needs = " + ".join(f"{_number(need)} {name}" for name, need in sorted(bundle.items()))
    return (
        f"no room: asks for {count} x ({needs}), {asked.placement.value}; the cluster has "
        f"{has} on {len(nodes)} node(s), of which {fit} could hold one share when empty"
    )


def _number(value: float) -> str:
    return f"{value:.4g}"
