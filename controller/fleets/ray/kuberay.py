"""A replica of several nodes on Kubernetes: one KubeRay ``RayCluster``. Pure.

The head runs Ray and, once every node has joined, the engine beside it in the same container: only
there does it have the node's cards. When either ends the container ends and is started again; the
other nodes notice that their Ray is gone, end as well, and join the new one.

Source: ray.io/v1 of KubeRay 1.5. The annotation is of the RayCluster and leaves the commands of all
its containers to us, with what KubeRay would have run in a variable (KubeRay 1.1 and newer):
https://docs.ray.io/en/latest/cluster/kubernetes/user-guides/pod-command.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

API_VERSION: Final = "ray.io/v1"
KIND: Final = "RayCluster"
OWN_COMMAND: Final = "ray.io/overwrite-container-cmd"
HEAD_CONTAINER: Final = "engine"
WORKER_CONTAINER: Final = "node"
WORKERS: Final = "nodes"
MOST_OF_NAME: Final = 50
"""KubeRay refuses names of more than 53 characters, since it appends to them; older ones less."""

CLUSTER_LABEL: Final = "ray.io/cluster"
"""KubeRay's, on every pod of a cluster."""

SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 -- where NCCL looks for it
OBJECT_STORE_BYTES: Final = 512 << 20
"""Ray would take 30 % of a node's memory for objects; engines pass few and small ones. It lies in
shared memory and counts as used only where it is."""

RAYLET_PORT: Final = 6_385
"""Of each node's Ray, which listens there while it lives. KubeRay's own probes need ``wget`` and a
dashboard, which images of engines do not all have."""

NO_REPORTS: Final = MappingProxyType({"name": "RAY_USAGE_STATS_ENABLED", "value": "0"})
"""Ray reports its use to its makers unless told not to."""

WORKER_SCRIPT: Final = """\
ulimit -n 65536 2>/dev/null || true
head=$(getent hosts "$FQ_RAY_IP" | cut -d' ' -f1)
$KUBERAY_GEN_RAY_START_CMD &
ray_pid=$!
trap leaving=yes TERM
while kill -0 $ray_pid 2>/dev/null; do
  [ -n "${leaving:-}" ] || { wait $ray_pid; continue; }
  timeout 2 /bin/bash -c "exec 3<>/dev/tcp/$head/$RAY_PORT" 2>/dev/null && sleep 1 && continue
  kill -KILL $ray_pid
  exit 0
done
wait $ray_pid
"""
"""All pods of a deleted cluster are told to go at once. The head drains its engine, whose other
shares are here: this node stays until the head's Ray is gone. Its address is looked up before,
since the name goes with the cluster. Asked to end, Ray would look for its head for half a minute.
The limit is the one that KubeRay sets."""

HEAD_SCRIPT: Final = """\
set -u
ulimit -n 65536 2>/dev/null || true
$KUBERAY_GEN_RAY_START_CMD &
ray_pid=$!
trap 'kill -TERM $now' TERM
python3 -c "$HEADRACE_JOINED" --nodes "$HEADRACE_NODES" \
--cards-per-node "$HEADRACE_CARDS" --within "$HEADRACE_JOIN_S" &
now=$!
wait $now || { kill -TERM $ray_pid; exit 1; }
"$@" &
now=$!
wait -n $ray_pid $now
ended=$?
kill -TERM $now 2>/dev/null
wait $now
kill -TERM $ray_pid 2>/dev/null
exit $ended
"""
"""The engine's command is the script's arguments. SIGTERM goes to the engine, which
drains, while Ray runs on: the other nodes' shares are Ray's."""


@dataclass(frozen=True, slots=True)
class RayReplica:
    """One replica of several nodes.

    Attributes:
        name: Of the object.
        namespace: Of the object.
        image: Of the engine, with Ray in it.
        ray_version: Of the Ray in the image, as KubeRay wants it.
        command: What serves, on the head.
        nodes: How many, the head included.
        cards_per_node: ``nvidia.com/gpu`` of each; 0 runs on CPU.
        resources: Requests and limits of each node, by Kubernetes' names.
        env: Variables of every node, as in a container.
        ports: Container ports of the head, by name.
        labels: Of the object and of the head's pod, which is the endpoint.
        worker_labels: Of the other pods, which serve nothing.
        annotations: Of the head's pod.
        container: Further fields of every node's container.
        mounts: Of every node's container.
        head: Further fields of the head's container, such as its probes.
        volumes: Of every pod.
        pod: Further fields of every pod.
        before: Init containers of every pod.
        sidecars: Init containers of the head's pod, after those.
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
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    env: Sequence[Mapping[str, Any]] = ()
    ports: Mapping[str, int] = field(default_factory=lambda: {"http": 8_000})
    labels: Mapping[str, str] = field(default_factory=dict)
    worker_labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, Any] = field(default_factory=dict)
    mounts: Sequence[Mapping[str, Any]] = ()
    head: Mapping[str, Any] = field(default_factory=dict)
    volumes: Sequence[Mapping[str, Any]] = ()
    pod: Mapping[str, Any] = field(default_factory=dict)
    before: Sequence[Mapping[str, Any]] = ()
    sidecars: Sequence[Mapping[str, Any]] = ()
    join_s: int = 1_800
    grace_s: int = 120

    def __post_init__(self) -> None:
        if self.nodes < 2:
            raise ValueError(f"nodes: {self.nodes}: a replica of one node is a pod")
        if len(self.name) > MOST_OF_NAME:
            raise ValueError(f"name: {self.name!r} is longer than {MOST_OF_NAME} characters")


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
                # The head is ready once its engine serves, which is after all nodes have found it.
                "headService": {"spec": {"clusterIP": "None", "publishNotReadyAddresses": True}},
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
    params = {
        "num-gpus": str(replica.cards_per_node),
        "object-store-memory": str(OBJECT_STORE_BYTES),
        "node-manager-port": str(RAYLET_PORT),
    }
    return {**params, "dashboard-host": "127.0.0.1"} if head else params


def _head(replica: RayReplica, gate: str) -> dict[str, Any]:
    variables = {
        "HEADRACE_JOINED": gate,
        "HEADRACE_NODES": str(replica.nodes),
        "HEADRACE_CARDS": str(replica.cards_per_node),
        "HEADRACE_JOIN_S": str(replica.join_s),
    }
    own = _container(replica, HEAD_CONTAINER)
    container = {
        **own,
        **replica.head,
        "env": [*({"name": key, "value": value} for key, value in variables.items()), *own["env"]],
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
        "spec": _pod(replica, container, [*replica.before, *replica.sidecars]),
    }


def _worker(replica: RayReplica) -> dict[str, Any]:
    alive = {"tcpSocket": {"port": RAYLET_PORT}}
    container = {
        **_container(replica, WORKER_CONTAINER),
        "command": ["/bin/bash", "-c", WORKER_SCRIPT],
        "startupProbe": {**alive, "periodSeconds": 2, "failureThreshold": replica.join_s // 2},
        "readinessProbe": {**alive, "periodSeconds": 10},
        "livenessProbe": {**alive, "periodSeconds": 10},
    }
    return {
        "metadata": {"labels": dict(replica.worker_labels)},
        "spec": _pod(replica, container, replica.before),
    }


def _container(replica: RayReplica, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": replica.image,
        **replica.container,
        "env": [dict(NO_REPORTS), *(dict(each) for each in replica.env)],
        "resources": {kind: dict(each) for kind, each in replica.resources.items()},
        "volumeMounts": [
            {"name": "shm", "mountPath": SHARED_MEMORY},
            *(dict(each) for each in replica.mounts),
        ],
    }


def _pod(
    replica: RayReplica, container: Mapping[str, Any], before: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    made = {
        "terminationGracePeriodSeconds": replica.grace_s,
        **replica.pod,
        "affinity": _on_machines_of_their_own(replica),
        "initContainers": [dict(each) for each in before],
        "containers": [dict(container)],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *(dict(each) for each in replica.volumes),
        ],
    }
    if not before:
        del made["initContainers"]
    return made


def _on_machines_of_their_own(replica: RayReplica) -> dict[str, Any]:
    """Nodes of one replica are machines: no two of its pods on one."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {CLUSTER_LABEL: replica.name}},
    }
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
