"""Reads Kubernetes objects into what decisions are made from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from controller.api.model_service import ModelServiceSpec
from controller.models.state import Object, Observed, Owner, Replica
from controller.models.status import memory_of
from controller.models.words import ENGINE, REVISION_LABEL, RUNTIME, VARIANT_LABEL

_ENDED: Final = frozenset({"Failed", "Succeeded"})


def owner_of(service: Object) -> Owner:
    """Return who a ModelService is."""
    metadata = service["metadata"]
    return Owner(
        metadata["name"], metadata["namespace"], metadata["uid"], metadata.get("generation", 0)
    )


def observe(
    service: Object,
    spec: ModelServiceSpec,
    replicas: Iterable[Replica],
    others: Iterable[tuple[str, Object]],
    kinds: frozenset[str],
) -> Observed:
    """Put what is there into one value.

    Args:
        service: The ModelService.
        spec: Its spec, read.
        replicas: That carry its label and are its own.
        others: Other objects of its own, each with its kind: stored templates, budgets.
        kinds: That the cluster serves, of those that a service may be made of.

    """
    owner = owner_of(service)
    by_name = {(kind, str(other["metadata"]["name"])): other for kind, other in others}
    templates = {
        other["data"]["revision"]: other["data"]["template"]
        for (kind, _), other in by_name.items()
        if kind == "ControllerRevision"
    }
    status = service.get("status") or {}
    return Observed(
        owner=owner,
        spec=spec,
        replicas=tuple(sorted(replicas, key=lambda replica: replica.name)),
        memory=memory_of(status),
        templates=templates,
        status=status,
        others=by_name,
        kinds=kinds,
    )


def is_owned(obj: Object, uid: str) -> bool:
    """Whether an object belongs to the service with this uid, and not to one before it."""
    references = obj["metadata"].get("ownerReferences", ())
    return any(reference.get("uid") == uid for reference in references)


def cluster_as_replica(cluster: Object, head: Object | None) -> Replica:
    """Return a RayCluster as a replica: its head serves, so what is said of that is said of it.

    Args:
        cluster: The RayCluster.
        head: The pod of its head, once there is one.

    """
    metadata = cluster["metadata"]
    labels = metadata.get("labels", {})
    base = pod_as_replica(head) if head is not None else None
    failed = cluster.get("status", {}).get("state") == "failed"
    return Replica(
        name=metadata["name"],
        uid=metadata["uid"],
        variant=labels.get(VARIANT_LABEL, ""),
        revision=labels.get(REVISION_LABEL, ""),
        kind="RayCluster",
        ready=base is not None and base.ready and not base.ending,
        ready_since_s=base.ready_since_s if base is not None else 0.0,
        ending="deletionTimestamp" in metadata,
        failed=failed,
        created_s=seconds(metadata.get("creationTimestamp")),
        restarts=base.restarts if base is not None else 0,
        why=base.why if base is not None else "its head has not been made yet",
    )


def pod_as_replica(pod: Object) -> Replica:
    """Return a pod as a replica."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = metadata.get("labels", {})
    conditions = {item["type"]: item for item in status.get("conditions", ())}
    containers = [
        *status.get("initContainerStatuses", ()),
        *status.get("containerStatuses", ()),
    ]
    serves = conditions.get("Ready", {})
    ready = serves.get("status") == "True"
    return Replica(
        name=metadata["name"],
        uid=metadata["uid"],
        variant=labels.get(VARIANT_LABEL, ""),
        revision=labels.get(REVISION_LABEL, ""),
        ready=ready,
        ready_since_s=seconds(serves.get("lastTransitionTime")) if ready else 0.0,
        ending="deletionTimestamp" in metadata,
        failed=status.get("phase") in _ENDED,
        created_s=seconds(metadata.get("creationTimestamp")),
        restarts=sum(c.get("restartCount", 0) for c in containers if c["name"] == ENGINE),
        why=_why(conditions, containers),
    )


def seconds(timestamp: str | None) -> float:
    """Return an RFC 3339 time as seconds since the epoch; 0 for none."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else 0.0


def _why(
    conditions: Mapping[str, Mapping[str, Any]], containers: Iterable[Mapping[str, Any]]
) -> str:
    """Return the first thing that keeps a pod from being ready, as an operator would put it."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unscheduled')}: {scheduled.get('message', '')}"
    for container in containers:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            message = waiting.get("message", "")
            return f"container {container['name']}: {waiting['reason']}: {message}"[:500]
    for container in containers:
        if container["name"] == RUNTIME and not container.get("ready"):
            return "the engine has not answered a generation yet"
    return ""
