"""The RayCluster of one replica that spans several machines. Pure.

It is the pod of a single machine, put at the head of a cluster: same engine, same sidecar, same way
to go. The engine starts once every node has joined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from controller.api.model_service import Variant
from controller.fleets.ray.kuberay import (
    API_VERSION,
    KIND,
    MOST_OF_NAME,
    RayReplica,
    ray_cluster,
)
from controller.models.words import (
    MANAGED_BY,
    REVISION_LABEL,
    RUNTIME,
    SERVICE_LABEL,
    VARIANT_LABEL,
)

NODES: Final = "nodes"
"""Key of a stored template under which a replica of several machines keeps what the pod's template
does not say."""

MOST_OF_STEM: Final = MOST_OF_NAME - 5
"""Behind it come a hyphen and a number below 10,000: there are at most 5,000 replicas."""

SHM: Final = "shm"
"""Volume of shared memory, which every pod of a cluster has of its own."""

_OF_EVERY_NODE: Final = ("imagePullPolicy", "securityContext")
_OF_THE_ENGINE: Final = ("lifecycle", "startupProbe", "livenessProbe")
_SAID: Final = frozenset(
    {"affinity", "containers", "initContainers", "terminationGracePeriodSeconds", "volumes"}
)
"""Fields of a pod that a cluster says in its own way."""


def spanning(
    template: dict[str, Any], variant: Variant, ray_version: str, gate: str
) -> dict[str, Any]:
    """Return a template that also says over how many machines its replicas span.

    Args:
        template: Of a single machine.
        variant: The replica's.
        ray_version: Of the Ray in the engine's image.
        gate: The program that waits for all nodes.

    """
    said = {
        "count": variant.nodes,
        "cards": variant.cards_per_node,
        "ray_version": ray_version,
        "gate": gate,
    }
    return {**template, NODES: said}


def spans(template: Mapping[str, Any]) -> bool:
    """Whether replicas made from a template span several machines."""
    return NODES in template


def short(stem: str) -> str:
    """Return the stem of a cluster's name, from which KubeRay makes longer ones."""
    if len(stem) <= MOST_OF_STEM:
        return stem
    told_apart = hashlib.sha256(stem.encode()).hexdigest()[:8]
    return f"{stem[: MOST_OF_STEM - 9].rstrip('-')}-{told_apart}"


def cluster(
    name: str, namespace: str, template: Mapping[str, Any], revision: str
) -> dict[str, Any]:
    """Return the RayCluster of one replica, made from a template that spans machines."""
    nodes, pod = template[NODES], template["spec"]
    [engine] = pod["containers"]
    before = [each for each in pod["initContainers"] if each["name"] != RUNTIME]
    sidecars = [each for each in pod["initContainers"] if each["name"] == RUNTIME]
    labels = {**template["labels"], REVISION_LABEL: revision}
    replica = RayReplica(
        name=name,
        namespace=namespace,
        image=engine["image"],
        ray_version=nodes["ray_version"],
        command=(*engine["command"], *engine["args"]),
        nodes=nodes["count"],
        cards_per_node=nodes["cards"],
        resources=engine["resources"],
        env=engine["env"],
        ports={port["name"]: port["containerPort"] for port in engine["ports"]},
        labels=labels,
        worker_labels={
            MANAGED_BY[0]: MANAGED_BY[1],
            f"{SERVICE_LABEL}-node": labels[SERVICE_LABEL],
            VARIANT_LABEL: labels[VARIANT_LABEL],
        },
        annotations=template["annotations"],
        container={key: engine[key] for key in _OF_EVERY_NODE if key in engine},
        mounts=[mount for mount in engine["volumeMounts"] if mount["name"] != SHM],
        head={
            **{key: engine[key] for key in _OF_THE_ENGINE if key in engine},
            # Without one KubeRay adds its own, which not every image can run.
            "readinessProbe": engine["livenessProbe"],
        },
        volumes=[volume for volume in pod["volumes"] if volume["name"] != SHM],
        pod={key: value for key, value in pod.items() if key not in _SAID},
        before=before,
        sidecars=sidecars,
        grace_s=pod["terminationGracePeriodSeconds"],
    )
    return ray_cluster(replica, nodes["gate"])


__all__ = ["API_VERSION", "KIND", "NODES", "cluster", "short", "spanning", "spans"]
