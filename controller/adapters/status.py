"""The status of a LoraAdapter: what ``kubectl get lora`` shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.core.adapter import AdapterSpec
from headrace.core.ids import ModelName
from headrace.runtime.adapter_objects import Claim
from headrace.service.kube.resource import Object

MOST_MESSAGE_CHARS: Final = 1_024
"""Longest message of a condition that is written."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An adapter that an endpoint could not load when it was last told to."""

    source: str
    digest: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sidecar of one ready replica said.

    Attributes:
        loaded: Digest of each adapter that its engine has; None where it is not known.
        failures: What could not be loaded.

    """

    loaded: Mapping[ModelName, str | None] = field(default_factory=dict)
    failures: Mapping[ModelName, Failure] = field(default_factory=dict)


def status(
    adapter: Object, claim: Claim, answers: Sequence[Answer | None], at: str
) -> dict[str, Any]:
    """Return the status that an adapter should have.

    Args:
        adapter: The object.
        claim: What it comes to.
        answers: Of each ready replica of its base; None from those that have not answered yet.
        at: Now, as RFC 3339; entered where the condition changes.

    """
    generation = adapter["metadata"].get("generation", 0)
    holds, reason, message, loaded = _judged(claim, answers)
    condition: dict[str, Any] = {
        "type": "Ready",
        "status": "True" if holds else "False",
        "reason": reason,
        "message": message[:MOST_MESSAGE_CHARS],
        "observedGeneration": generation,
    }
    said = (adapter.get("status") or {}).get("conditions", ())
    before: Object = next((old for old in said if old["type"] == "Ready"), {})
    same = before.get("status") == condition["status"]
    condition["lastTransitionTime"] = before["lastTransitionTime"] if same else at
    return {
        "observedGeneration": generation,
        "loadedReplicas": loaded,
        "conditions": [condition],
    }


def _judged(claim: Claim, answers: Sequence[Answer | None]) -> tuple[bool, str, str, int]:
    """Return whether requests for it can be served, why, the same for people, and the count."""
    spec = claim.spec
    if spec is None:
        return False, claim.reason, claim.message, 0
    ready = len(answers)
    loaded = sum(_has(answer, spec) for answer in answers if answer is not None)
    wanted = spec.replicas or 0
    told = f"{loaded} of {ready} ready replicas have it"
    if ready == 0:
        return False, "NoReplica", f"no replica of {spec.base!r} is ready", 0
    failure = _failure(answers, spec)
    if failure and loaded < max(1, wanted):
        return False, "LoadFailed", f"{told}: {failure}", loaded
    if wanted and loaded < min(wanted, ready):
        return False, "Loading", f"{told}, {wanted} are to have it", loaded
    if loaded:
        return True, "Loaded", told, loaded
    return True, "OnDemand", "it is loaded when a request asks for it", 0


def _has(answer: Answer, spec: AdapterSpec) -> bool:
    """Return whether an endpoint has the version that there now is, as far as can be told."""
    if spec.name not in answer.loaded:
        return False
    return spec.digest is None or answer.loaded[spec.name] == spec.digest


def _failure(answers: Sequence[Answer | None], spec: AdapterSpec) -> str:
    """Return why this version could not be loaded somewhere; "" if that did not happen."""
    for answer in answers:
        failure = None if answer is None else answer.failures.get(spec.name)
        if failure is not None and (failure.source, failure.digest) == (spec.source, spec.digest):
            return failure.why
    return ""
