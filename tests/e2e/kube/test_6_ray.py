"""Replicas of several nodes: KubeRay makes pods of what the controller asks it for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kube.counted import Counted
from tests.e2e.kube.load import Load
from tests.e2e.kube.stack import IMAGE, MODELS, ROOT, Stack
from tests.kube import images
from tests.kube.cluster import Cluster
from tests.kube.processes import CommandFailed, Daemon, run, start
from tests.kube.programs import free_port, tools_dir

pytestmark = pytest.mark.kube

NAME = "wide"
RAY_IMAGE = "localhost/headrace-ray:e2e"
KUBERAY = "github.com/ray-project/kuberay/ray-operator"
SPEC = {
    "engine": {"image": RAY_IMAGE},
    "variants": [
        {
            "name": "pair",
            "nodes": 2,
            "tensorParallel": 2,
            "resources": {"cpu": "100m", "memory": "1536Mi"},
        }
    ],
    "rollout": {"drainSeconds": 60, "progressDeadlineSeconds": 600},
}
SERVES_S = 240.0


@pytest.fixture(scope="module", autouse=True)
def service(stack: Stack) -> Iterator[None]:
    """A service whose replicas span two nodes, on a cluster that does not know RayClusters yet."""
    operator = tools_dir() / "ray-operator"
    if not isinstance(stack.cluster, Cluster):
        pytest.skip("a cluster elsewhere has its own KubeRay, or none")
    if not os.access(operator, os.X_OK):
        pytest.fail(f"{operator} is not built: run tests/kube/install-tools")
    dockerfile = ROOT / "deploy/Dockerfile.ray"
    archive = images.build_image(dockerfile, RAY_IMAGE, arguments={"HEADRACE": IMAGE})
    stack.cluster.load_image(archive)
    stack.apply(NAME, replicas=1, **SPEC)
    yield
    stack.kubectl("delete", "modelservice", NAME, "--wait=false", "--ignore-not-found")
    stack.kubectl("uncordon", "node-1")


@pytest.fixture(scope="module")
def operator(stack: Stack) -> Iterator[Daemon]:
    """The real KubeRay, with its definitions applied; it runs beside the cluster."""
    assert isinstance(stack.cluster, Cluster)
    where: list[str | Path] = [
        "go",
        "list",
        "-C",
        ROOT / "tests/kube/tools",
        "-m",
        "-f",
        "{{.Dir}}",
        KUBERAY,
    ]
    definitions = Path(run(where).strip(), "config/crd/bases")
    stack.cluster.kubectl("apply", "--server-side", "-f", str(definitions))
    stack.cluster.kubectl("wait", "--for=condition=Established", "crd", "rayclusters.ray.io")
    health, metrics = free_port(), free_port()
    argv: list[str | Path] = [
        tools_dir() / "ray-operator",
        f"--kubeconfig={stack.cluster.kubeconfig}",
    ]
    argv += ["--enable-leader-election=false", f"--health-probe-bind-address=127.0.0.1:{health}"]
    argv += [f"--metrics-addr=127.0.0.1:{metrics}"]
    daemon = start("ray-operator", argv, stack.cluster.folder / "logs/ray-operator.log")
    yield daemon
    daemon.stop()


def test_without_kuberay_the_status_says_what_is_missing(stack: Stack) -> None:
    def told() -> bool:
        conditions = stack.status(NAME).get("conditions", ())
        return any("need KubeRay" in condition["message"] for condition in conditions)

    stack.until("the status tells", told, 30)
    assert stack.pods(NAME) == []


def test_the_engine_waits_for_the_other_node(stack: Stack, operator: Daemon) -> None:
    stack.kubectl("cordon", "node-1")
    stack.until("KubeRay makes the head", lambda: len(stack.alive(NAME)) == 1, 90)
    [head] = [pod["metadata"]["name"] for pod in stack.pods(NAME)]
    stack.until("Ray runs", lambda: "Ray runtime started" in _log(stack, head), SERVES_S)
    [other] = _nodes(stack)
    stack.until("the other node has no machine", lambda: _unscheduled(_nodes(stack)[0]), 30)
    assert other["spec"]["containers"][0]["image"] == RAY_IMAGE
    with pytest.raises(CommandFailed):
        _health(stack, head)
    assert operator.alive()


def test_it_serves_once_all_nodes_have_joined(stack: Stack, counted: Counted) -> None:
    stack.kubectl("uncordon", "node-1")
    took_s = stack.until("it serves", lambda: stack.settled(NAME, 1), SERVES_S)
    counted.figures["ray.joined_and_serving_s"] = round(took_s, 1)
    stack.first_token_s(NAME, 60)
    [head], [other] = stack.pods(NAME), _nodes(stack)
    assert "all 2 node(s) have joined" in _log(stack, head["metadata"]["name"])
    assert {head["spec"]["nodeName"], other["spec"]["nodeName"]} == {"node-0", "node-1"}


def test_an_engine_that_dies_comes_back_with_its_nodes(stack: Stack, counted: Counted) -> None:
    [head] = stack.pods(NAME)
    name = head["metadata"]["name"]
    stack.kubectl("exec", name, "-c", "engine", "--", "python3", "-c", KILL_ENGINE)
    stack.until("it ends", lambda: not stack.settled(NAME, 1) or _restarts(stack) > 0, 60)
    took_s = stack.until(
        "it serves again", lambda: _restarts(stack) > 0 and stack.settled(NAME, 1), SERVES_S
    )
    counted.figures["ray.engine_back_s"] = round(took_s, 1)
    stack.first_token_s(NAME, 60)


def test_it_scales_up_and_down_without_a_cut(stack: Stack, counted: Counted) -> None:
    with Load(stack.url, NAME, streams=2, tokens=100) as load:
        stack.kubectl("scale", "modelservice", NAME, "--replicas=2")
        up_s = stack.until("two serve", lambda: stack.settled(NAME, 2), SERVES_S)
        assert len(_clusters(stack)) == 2
        assert len(_nodes(stack)) == 2
        stack.kubectl("scale", "modelservice", NAME, "--replicas=1")
        down_s = stack.until("one is left", lambda: stack.settled(NAME, 1), 120)
        stack.until("so is its other node", lambda: len(_nodes(stack)) == 1, 120)
    counted.figures |= {"ray.up_s": round(up_s, 1), "ray.down_s": round(down_s, 1)}
    counted.streams("ray_scale", load.counts)
    assert load.counts.requests > 0
    assert load.counts.samples == []
    assert len(_clusters(stack)) == 1


def test_deleting_it_leaves_nothing(stack: Stack) -> None:
    stack.kubectl("delete", "modelservice", NAME, limit_s=120)
    stack.until(
        "its pods are gone",
        lambda: not (_clusters(stack) or stack.pods(NAME) or _nodes(stack)),
        120,
    )
    stack.until("and its services", lambda: not stack.get("services")["items"], 30)


KILL_ENGINE = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\\0")
    if words[1:3] == [b"-m", b"headrace.simulator.http"]:
        os.kill(int(pid), signal.SIGKILL)
"""


def _clusters(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.get("rayclusters")["items"]
    return found


def _nodes(stack: Stack) -> list[dict[str, Any]]:
    """Return the pods that are nodes of replicas, but for the heads."""
    chosen = f"headrace.dev/model-service-node={NAME}"
    found: list[dict[str, Any]] = stack.get("pods", "-l", chosen)["items"]
    return found


def _log(stack: Stack, pod: str) -> str:
    try:
        return stack.kubectl("logs", pod, "-c", "engine")
    except CommandFailed:
        return ""  # it has not been started


def _health(stack: Stack, pod: str) -> str:
    return stack.kubectl(
        "get", "--raw", f"/api/v1/namespaces/{MODELS}/pods/{pod}:8000/proxy/health"
    )


def _unscheduled(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "PodScheduled" and item["status"] == "False" for item in conditions)


def _restarts(stack: Stack) -> int:
    return sum(
        container["restartCount"]
        for pod in stack.alive(NAME)
        for container in pod["status"].get("containerStatuses", ())
        if container["name"] == "engine"
    )
