"""What the benchmark stands on: a real control plane, made-up nodes, our definitions and account.

The controller runs as the account that the manifests give it, and the API server counts that
account's writes by itself: what the controller says of its calls can be held against it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.kube.cluster import STATE, Cluster

ROOT: Final = Path(__file__).parents[2]
ACCOUNT: Final = ("headrace", "headrace-controller")
TOLERATION: Final = {"key": "kwok.x-k8s.io/node", "operator": "Exists"}
PODS_PER_NODE: Final = 200
"""A made-up node takes 250: the rest is room for replicas that are exchanged."""

_WRITES: Final = "headrace-writes"
_READS: Final = "headrace-reads"
_DISPATCHED: Final = "apiserver_flowcontrol_dispatched_requests_total"
_OURS: Final = frozenset({"ServiceAccount", "ClusterRole", "ClusterRoleBinding"})
_WRITING: Final = ("create", "update", "patch", "delete", "deletecollection")
_READING: Final = ("get", "list", "watch")


def prepare(cluster: Cluster, nodes: int, namespaces: list[str]) -> Path:
    """Set everything up but the services; return the kubeconfig of the controller's account."""
    cluster.add_kwok_nodes(nodes)
    for path in sorted((ROOT / "helm/headrace/files/crds").glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", "-f", str(path))
    objects = [_namespace(name) for name in (ACCOUNT[0], *namespaces)]
    objects += _of_account()
    objects += [_flow(_WRITES, _WRITING), _flow(_READS, _READING)]
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(listed))
    for name in namespaces:  # no pod can be made before its account is there
        cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name)
    token = cluster.kubectl("create", "token", ACCOUNT[1], "-n", ACCOUNT[0], "--duration=6h")
    config = json.loads(cluster.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token.strip()}
    path = cluster.folder / "controller-kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def writes_served(cluster: Cluster) -> int:
    """Return how many writes of the controller's account the API server has carried out so far.

    Its own count: requests are told apart by account and verb, by a FlowSchema of their own.
    """
    text = cluster.kubectl("get", "--raw", "/metrics")
    found = samples(text, _DISPATCHED)
    return int(sum(n for labels, n in found if labels.get("flow_schema") == _WRITES))


def samples(text: str, name: str) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield the labels and values of one metric in a Prometheus text."""
    lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    for family in text_string_to_metric_families("\n".join([*lines, ""])):
        for sample in family.samples:
            yield sample.labels, sample.value


def pids(cluster: Cluster) -> dict[str, int]:
    """Return the processes of the control plane by name."""
    state = json.loads((cluster.folder / STATE).read_text())
    return {name: int(daemon["pid"]) for name, daemon in state["daemons"].items()}


def busy_s() -> float:
    """Return the CPU time that this machine has spent on programs, in seconds over all cores."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _of_account() -> list[dict[str, Any]]:
    """Return what the manifests give the controller: its account and what that may do."""
    read = yaml.safe_load_all((ROOT / "deploy/headrace.yaml").read_text())
    return [found for found in read if found["kind"] in _OURS and _is_controllers(found)]


def _is_controllers(found: Mapping[str, Any]) -> bool:
    labels: Mapping[str, str] = found["metadata"].get("labels", {})
    return labels.get("app.kubernetes.io/component") == "controller"


def _flow(name: str, verbs: tuple[str, ...]) -> dict[str, Any]:
    """Count an account's requests of these verbs apart, with the rank it would have anyway."""
    namespace, account = ACCOUNT
    everything = {"apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "verbs": list(verbs)}
    return {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": name},
        "spec": {
            "matchingPrecedence": 800,
            "priorityLevelConfiguration": {"name": "workload-low"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [
                {
                    "subjects": [
                        {
                            "kind": "ServiceAccount",
                            "serviceAccount": {"namespace": namespace, "name": account},
                        }
                    ],
                    "resourceRules": [{**everything, "clusterScope": True}],
                }
            ],
        },
    }
