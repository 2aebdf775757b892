"""One look at a service, and everything that should be done about it now. Pure.

Level-triggered: all is decided from what is there, nothing from what happened. Law: once the
actions have taken effect, the next decision from the new sight has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from controller.api.model_service import Variant
from controller.models.pod import Images, owner_reference, replica, revision, template
from controller.models.ray import KIND as RAY_CLUSTER
from controller.models.ray import short, spans
from controller.models.rollout import Wanted, moves, names
from controller.models.spread import spread
from controller.models.state import (
    Action,
    Apply,
    Create,
    Decision,
    Delete,
    Observed,
    SetStatus,
    Tell,
    VariantMemory,
)
from controller.models.status import VariantView, failure, status
from controller.models.words import (
    ENGINE_PORT,
    MANAGED_BY,
    PICKER,
    PICKER_PORT,
    SERVICE_LABEL,
    VARIANT_LABEL,
)

NO_RAY: Final = "replicas of several nodes need KubeRay: this cluster has no RayCluster"


def reconcile(observed: Observed, images: Images, now_s: float, at: str) -> Decision:
    """Decide what to do about one service.

    Args:
        observed: What is there.
        images: What runs where the spec names no image.
        now_s: Now, seconds since the epoch.
        at: The same as RFC 3339.

    """
    views: list[VariantView] = []
    actions: list[Action] = []
    for variant, count in _dealt(observed):
        view, made = _variant(observed, variant, count, images, now_s)
        views.append(view)
        actions += made
    actions += _of_no_variant(observed, views)
    actions += _unused_templates(observed, views)
    actions += _budget(observed)
    actions += _pool(observed)
    wanted_status = status(observed, views, at)
    if wanted_status != observed.status:
        actions.append(SetStatus(wanted_status))
        actions += _news(observed, views)
    waits = [view.moves.again_s for view in views if view.moves.again_s is not None]
    return Decision(tuple(actions), min(waits, default=None))


def _dealt(observed: Observed) -> Iterator[tuple[Variant, int]]:
    counts = spread(observed.spec.replicas, observed.spec.variants)
    for variant in observed.spec.variants:
        yield variant, counts[variant.name]


def _variant(
    observed: Observed, variant: Variant, count: int, images: Images, now_s: float
) -> tuple[VariantView, list[Action]]:
    owner = observed.owner
    newest = template(owner, observed.spec, variant, images)
    wanted = Wanted(count, revision(newest), frozenset(observed.templates))
    replicas = tuple(r for r in observed.replicas if r.variant == variant.name)
    memory = observed.memory.get(variant.name, VariantMemory())
    decided = moves(wanted, replicas, memory, observed.spec.rollout, now_s)
    actions: list[Action] = []
    if wanted.revision not in observed.templates:
        actions.append(Create(_stored(observed, variant, newest, wanted.revision)))
    used = newest if decided.revision == wanted.revision else observed.templates[decided.revision]
    actions += [Delete(gone.kind, gone.name, gone.uid) for gone in decided.delete]
    if spans(used) and RAY_CLUSTER not in observed.kinds:
        return VariantView(variant.name, count, decided, replicas, NO_RAY), actions
    stem = f"{owner.name}-{variant.name}-{decided.revision[:5]}"
    fresh = names(short(stem) if spans(used) else stem, replicas, decided.create)
    actions += [Create(replica(owner, name, used, decided.revision)) for name in fresh]
    return VariantView(variant.name, count, decided, replicas), actions


def _of_no_variant(observed: Observed, views: list[VariantView]) -> Iterator[Action]:
    """Remove the replicas of variants that the spec has no more, once the others carry the load."""
    known = {view.name for view in views}
    others = [r for r in observed.replicas if r.variant not in known and not r.ending]
    missing = sum(max(0, view.wanted - sum(r.ready for r in view.replicas)) for view in views)
    keep = max(0, missing - observed.spec.rollout.max_unavailable)
    serving = sorted((r for r in others if r.ready), key=lambda r: (r.created_s, r.name))
    for gone in (*(r for r in others if not r.ready), *serving[keep:]):
        yield Delete(gone.kind, gone.name, gone.uid)


def _stored(
    observed: Observed, variant: Variant, body: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return the object that keeps a template, so that it can be returned to."""
    owner = observed.owner
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{owner.name}-{variant.name}-{name}",
            "namespace": owner.namespace,
            "labels": {
                SERVICE_LABEL: owner.name,
                VARIANT_LABEL: variant.name,
                MANAGED_BY[0]: MANAGED_BY[1],
            },
            "ownerReferences": [owner_reference(owner)],
        },
        "revision": owner.generation,
        "data": {"revision": name, "template": body},
    }


def _unused_templates(observed: Observed, views: list[VariantView]) -> Iterator[Action]:
    needed = {there.revision for there in observed.replicas if not there.ending}
    for view in views:
        memory = view.moves.memory
        needed |= {memory.revision, memory.stable, memory.failed}
    for (kind, name), stored in sorted(observed.others.items()):
        if kind == "ControllerRevision" and stored["data"]["revision"] not in needed:
            yield Delete(kind, name, stored["metadata"]["uid"])


def _budget(observed: Observed) -> Iterator[Action]:
    """Keep evictions, of node drains above all, from taking more than one replica at a time."""
    owner = observed.owner
    spec = {
        "maxUnavailable": max(1, observed.spec.rollout.max_unavailable),
        "selector": {"matchLabels": {SERVICE_LABEL: owner.name}},
    }
    yield from _applied(observed, "policy/v1", "PodDisruptionBudget", spec)


def _applied(
    observed: Observed, api_version: str, kind: str, spec: Mapping[str, Any]
) -> Iterator[Action]:
    """Have an object of the service's own name say ``spec``, if it does not yet."""
    owner = observed.owner
    there = observed.others.get((kind, owner.name), {}).get("spec", {})
    if {key: there.get(key) for key in spec} == spec:
        return
    yield Apply(
        {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {
                "name": owner.name,
                "namespace": owner.namespace,
                "labels": {SERVICE_LABEL: owner.name, MANAGED_BY[0]: MANAGED_BY[1]},
                "ownerReferences": [owner_reference(owner)],
            },
            "spec": spec,
        }
    )


def _pool(observed: Observed) -> Iterator[Action]:
    """Publish the endpoints to gateways of the Inference Extension, where the cluster has it.

    Nobody answers as endpoint picker for us: such gateways choose for themselves (FailOpen).
    Source: Gateway API Inference Extension v1, InferencePool.
    """
    if "InferencePool" not in observed.kinds:
        return
    owner = observed.owner
    spec = {
        "selector": {"matchLabels": {SERVICE_LABEL: owner.name}},
        "targetPorts": [{"number": ENGINE_PORT}],
        "endpointPickerRef": {
            "name": PICKER,
            "port": {"number": PICKER_PORT},
            "failureMode": "FailOpen",
        },
    }
    yield from _applied(observed, "inference.networking.k8s.io/v1", "InferencePool", spec)


def _news(observed: Observed, views: list[VariantView]) -> Iterator[Tell]:
    """Tell what operators would want to have been told, once: when the status first says it."""
    for view in views:
        before = observed.memory.get(view.name, VariantMemory())
        now = view.moves.memory
        if now.failed and now.failed != before.failed:
            reason, said = failure(view)
            yield Tell(warning=True, reason=reason, message=said)
        if now.stable != before.stable:
            said = f"variant {view.name}: all {view.wanted} are of revision {now.stable}"
            yield Tell(warning=False, reason="RolloutComplete", message=said)
