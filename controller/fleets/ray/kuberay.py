"""A replica of several nodes on Kubernetes: one KubeRay ``RayCluster``. Pure.

The head runs Ray and, once every node has joined, the engine beside it in the same container: only
there does it have the node's cards. When either ends the container ends, and KubeRay makes the head
anew.

Source: ray.io/v1 of KubeRay. The annotation is of the RayCluster and leaves the commands of all its
containers to us, with what KubeRay would have run in a variable (KubeRay 1.1 and newer):
https://docs.ray.io/en/latest/cluster/kubernetes/user-guides/pod-command.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

API_VERSION: Final = "ray.io/v1"
KIND: Final = "RayCluster"
OWN_COMMAND: Final = "ray.io/overwrite-container-cmd"
HEAD_CONTAINER: Final = "engine"
WORKER_CONTAINER: Final = "node"
WORKERS: Final = "nodes"
SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 -- where NCCL looks for it

WORKER_SCRIPT: Final = "ulimit -n 65536 || true; exec $KUBERAY_GEN_RAY_START_CMD"
"""The limit is the one that KubeRay sets where it writes the command."""

HEAD_SCRIPT: Final = """\
set -u
ulimit -n 65536 || true
$KUBERAY_GEN_RAY_START_CMD &
ray_pid=$!
trap 'kill -TERM ${engine_pid:-$ray_pid}' TERM
python3 -c "$HEADRACE_JOINED" --nodes "$HEADRACE_NODES" \
--cards-per-node "$HEADRACE_CARDS" --within "$HEADRACE_JOIN_S" || { kill -TERM $ray_pid; exit 1; }
"$@" &
engine_pid=$!
wait -n $ray_pid $engine_pid
ended=$?
kill -TERM $engine_pid 2>/dev/null
wait $engine_pid
kill -TERM $ray_pid 2>/dev/null
exit $ended
"""
"""The engine's command is the script's arguments. SIGTERM goes to the engine, which
drains, while Ray runs on: the other nodes' shares are Ray's."""


@dataclass(frozen=True, slots=True)
class RayReplica:
    """One replica of several nodes.

    Attributes:
        name: Of the object; at most 50 characters, since KubeRay appends to it.
        namespace: Of the object.
        image: Of the engine, with Ray in it.
        ray_version: Of the Ray in the image, as KubeRay wants it.
        command: What serves, on the head.
        nodes: How many, the head included.
        cards_per_node: ``nvidia.com/gpu`` of each; 0 runs on CPU.
        resources: Requests of each node, by Kubernetes' names; they are its limits as well.
        env: Variables of the engine.
        ports: Container ports of the head, by name.
        labels: Of the object and of the head's pod, which is the endpoint.
        worker_labels: Of the other pods, which serve nothing.
        annotations: Of the head's pod.
        head: Further fields of the head's pod, such as its sidecar in ``initContainers``.
        join_s: How long nodes may take to join.
        grace_s: What Kubernetes allows the head's pod to end.

    """

    name: str
    namespace: str
    image: str
    ray_version: str
    command: tuple[str, ...]
    nodes: int
    cards_per_node: int = 0
    resources: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=lambda: {"http": 8_000})
    labels: Mapping[str, str] = field(default_factory=dict)
    worker_labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    join_s: int = 1_800
    grace_s: int = 120

    def __post_init__(self) -> None:
        if self.nodes < 2:
            raise ValueError(f"nodes: {self.nodes}: a replica of one node is a pod")
        if len(self.name) > 50:
            raise ValueError(f"name: {self.name!r} is longer than 50 characters")


def ray_cluster(replica: RayReplica, gate: str) -> dict[str, Any]:
    """Return the manifest.

    Args:
        replica: What to run.
        gate: The text of ``joined.py``, which the engine's image does not have.

    """
    workers = replica.nodes - 1
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": replica.name,
            "namespace": replica.namespace,
            "labels": dict(replica.labels),
            "annotations": {OWN_COMMAND: "true"},
        },
        "spec": {
            "rayVersion": replica.ray_version,
            "enableInTreeAutoscaling": False,
            "headGroupSpec": {
                "rayStartParams": _start_params(replica, head=True),
                "template": _head(replica, gate),
            },
            "workerGroupSpecs": [
                {
                    "groupName": WORKERS,
                    "replicas": workers,
                    "minReplicas": workers,
                    "maxReplicas": workers,
                    "rayStartParams": _start_params(replica, head=False),
                    "template": _worker(replica),
                }
            ],
        },
    }


def _start_params(replica: RayReplica, *, head: bool) -> dict[str, str]:
    """Return ``ray start``'s options; the cards are said since Ray cannot see all vendors'."""
    params = {"num-gpus": str(replica.cards_per_node)}
    return {**params, "dashboard-host": "127.0.0.1"} if head else params


def _head(replica: RayReplica, gate: str) -> dict[str, Any]:
    variables = {
        "HEADRACE_JOINED": gate,
        "HEADRACE_NODES": str(replica.nodes),
        "HEADRACE_CARDS": str(replica.cards_per_node),
        "HEADRACE_JOIN_S": str(replica.join_s),
        **replica.env,
    }
    container = {
        **_container(replica, HEAD_CONTAINER, variables),
        "command": ["/bin/bash", "-c", HEAD_SCRIPT, HEAD_CONTAINER],
        "args": list(replica.command),
        "ports": [
            {"name": name, "containerPort": port} for name, port in sorted(replica.ports.items())
        ],
    }
    return {
        "metadata": {
            "labels": dict(replica.labels),
            "annotations": dict(replica.annotations),
        },
        "spec": {
            **_pod([container], replica.grace_s),
            **replica.head,
        },
    }


def _worker(replica: RayReplica) -> dict[str, Any]:
    container = {
        **_container(replica, WORKER_CONTAINER, replica.env),
        "command": ["/bin/bash", "-c", WORKER_SCRIPT],
    }
    return {
        "metadata": {"labels": dict(replica.worker_labels)},
        "spec": _pod([container], replica.grace_s),
    }


def _container(replica: RayReplica, name: str, env: Mapping[str, str]) -> dict[str, Any]:
    resources = dict(replica.resources)
    if replica.cards_per_node:
        resources["nvidia.com/gpu"] = str(replica.cards_per_node)
    return {
        "name": name,
        "image": replica.image,
        "env": [{"name": key, "value": value} for key, value in sorted(env.items())],
        "resources": {"requests": resources, "limits": dict(resources)},
        "volumeMounts": [{"name": "shm", "mountPath": SHARED_MEMORY}],
    }


def _pod(containers: Sequence[Mapping[str, Any]], grace_s: int) -> dict[str, Any]:
    return {
        "terminationGracePeriodSeconds": grace_s,
        "containers": [dict(each) for each in containers],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
