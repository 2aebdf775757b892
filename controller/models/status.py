"""The status of a service: what ``kubectl get`` and ``kubectl describe`` show. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controller.models.rollout import Moves
from controller.models.state import Observed, Replica, VariantMemory
from controller.models.words import SERVICE_LABEL

MOST_REASONS: Final = 3
"""Different reasons of replicas that are not ready, in one message."""


@dataclass(frozen=True, slots=True)
class VariantView:
    """One variant after a decision about it.

    Attributes:
        name: The variant's.
        wanted: Replicas.
        moves: What was decided.
        replicas: That were there before.
        missing: What the cluster lacks to make any.

    """

    name: str
    wanted: int
    moves: Moves
    replicas: tuple[Replica, ...]
    missing: str = ""


def memory_of(status: Mapping[str, Any]) -> dict[str, VariantMemory]:
    """Return what a status remembers, by variant."""
    return {
        variant["name"]: VariantMemory(
            variant.get("revision", ""),
            variant.get("stableRevision", ""),
            variant.get("failedRevision", ""),
            variant.get("failedBecause", ""),
        )
        for variant in status.get("variants", ())
    }


def status(observed: Observed, variants: Sequence[VariantView], at: str) -> dict[str, Any]:
    """Return the status that the service should have.

    Args:
        observed: What was seen.
        variants: In the order of the spec.
        at: Now, as RFC 3339; entered where a condition changes.

    """
    alive = [r for view in variants for r in view.replicas if not r.ending and not r.failed]
    made: dict[str, Any] = {
        "observedGeneration": observed.owner.generation,
        "replicas": len(alive),
        "readyReplicas": sum(replica.ready for replica in alive),
        "updatedReplicas": sum(_updated(view) for view in variants),
        "selector": f"{SERVICE_LABEL}={observed.owner.name}",
        "variants": [_variant(view) for view in variants],
    }
    conditions = [_available(observed, variants), _progressing(variants)]
    before = {old["type"]: old for old in observed.status.get("conditions", ())}
    for condition in conditions:
        old = before.get(condition["type"], {})
        same = old.get("status") == condition["status"]
        condition["lastTransitionTime"] = old["lastTransitionTime"] if same else at
        condition["observedGeneration"] = observed.owner.generation
    made["conditions"] = conditions
    return made


def failure(view: VariantView) -> tuple[str, str]:
    """Return, of a variant whose newest revision failed, the reason and the message of it."""
    memory = view.moves.memory
    message = f"variant {view.name}: revision {memory.failed} did not become ready"
    if memory.because:
        message += f" ({memory.because})"
    if view.moves.halted:
        return "RevisionFailed", message
    return "RolledBack", f"{message}; back to {memory.stable}"


def _updated(view: VariantView) -> int:
    return sum(
        replica.revision == view.moves.memory.revision
        for replica in view.replicas
        if not replica.ending and not replica.failed
    )


def _variant(view: VariantView) -> dict[str, Any]:
    alive = [replica for replica in view.replicas if not replica.ending and not replica.failed]
    memory = view.moves.memory
    said = {
        "name": view.name,
        "wanted": view.wanted,
        "replicas": len(alive),
        "readyReplicas": sum(replica.ready for replica in alive),
        "updatedReplicas": _updated(view),
        "revision": memory.revision,
        "stableRevision": memory.stable,
        "failedRevision": memory.failed,
        "failedBecause": memory.because,
        "reason": _why(view),
    }
    return {key: value for key, value in said.items() if value != ""}


def _why(view: VariantView) -> str:
    """Return why replicas are not ready, each reason once."""
    reasons: dict[str, None] = {view.missing: None} if view.missing else {}
    for replica in view.replicas:
        if replica.why and not replica.ready and not replica.ending:
            reasons.setdefault(replica.why)
    return "; ".join(list(reasons)[:MOST_REASONS])


def _available(observed: Observed, variants: Sequence[VariantView]) -> dict[str, Any]:
    wanted = sum(view.wanted for view in variants)
    ready = sum(r.ready for view in variants for r in view.replicas if not r.ending)
    least = max(0, wanted - observed.spec.rollout.max_unavailable)
    if wanted == 0:
        return _condition("Available", True, "ScaledToZero", "no replica is wanted")
    if ready >= least and ready > 0:
        return _condition("Available", True, "EnoughReady", f"{ready} of {wanted} are ready")
    why = "; ".join(filter(None, (_why(view) for view in variants)))
    message = f"{ready} of {wanted} are ready" + (f": {why}" if why else "")
    return _condition("Available", False, "NotEnoughReady", message)


def _progressing(variants: Sequence[VariantView]) -> dict[str, Any]:
    """Tell how far the newest revision has come; the first variant that is in trouble counts."""
    for view in variants:
        memory = view.moves.memory
        if memory.failed:
            reason, message = failure(view)
            if reason == "RolledBack":
                message += ". Change the spec to try again"
            return _condition("Progressing", False, reason, message)
    for view in variants:
        alive = [replica for replica in view.replicas if not replica.ending]
        updated = _updated(view)
        if updated < view.wanted or len(alive) > view.wanted:
            message = f"variant {view.name}: {updated} of {view.wanted} are of the newest revision"
            exchanging = any(r.revision != view.moves.memory.revision for r in alive)
            return _condition("Progressing", True, "Rolling" if exchanging else "Scaling", message)
        if sum(replica.ready for replica in alive) < view.wanted:
            message = f"variant {view.name}: replicas are starting"
            return _condition("Progressing", True, "Starting", message)
    return _condition("Progressing", True, "Complete", "all replicas are as the spec says")


def _condition(kind: str, holds: bool, reason: str, message: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True" if holds else "False",
        "reason": reason,
        "message": message,
    }
