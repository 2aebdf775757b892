"""The cluster that the cluster tests run on does what a cluster does."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube import images
from tests.kube.cluster import Cluster
from tests.kube.given import AnyCluster, require_cluster_support, some_cluster
from tests.kube.network import Addresses
from tests.kube.processes import CommandFailed, run, wait_until

pytestmark = pytest.mark.kube

SMOKE = Path(__file__).with_name("smoke")
IMAGE = "localhost/headrace-smoke:1"
READY_S = 60


def _pod(name: str, labels: dict[str, str]) -> dict[str, object]:
    at = {"path": "/ready", "port": 8000}
    serve = {
        "name": "serve",
        "image": IMAGE,
        "readinessProbe": {"httpGet": at, "periodSeconds": 1},
        "lifecycle": {"preStop": {"httpGet": {**at, "path": "/drain"}}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [serve], "terminationGracePeriodSeconds": 5},
    }


def _service(name: str, labels: dict[str, str]) -> dict[str, object]:
    ports = [{"port": 80, "targetPort": 8000}]
    spec = {"selector": labels, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[AnyCluster]:
    with some_cluster(request) as cluster:
        cluster.load_image(images.build_image(SMOKE / "Dockerfile", IMAGE, SMOKE))
        yield cluster


@pytest.fixture
def pod(cluster: AnyCluster) -> Iterator[str]:
    labels = {"app": "smoke"}
    items = [_pod("smoke", labels), _service("smoke", labels)]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    cluster.kubectl("apply", "-f", "-", stdin=listed)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/smoke", f"--timeout={READY_S}s")
    yield "smoke"
    cluster.kubectl("delete", "pod,service", "smoke", "--ignore-not-found")


def test_a_service_takes_the_host_to_a_pod(cluster: AnyCluster, pod: str) -> None:
    if not isinstance(cluster, Cluster):
        pytest.skip("the Services of a cluster elsewhere are not reached from here")
    address = cluster.kubectl("get", "service", pod, "-o", "jsonpath={.spec.clusterIP}")
    url = f"http://{address}/through-the-service"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return bool(response.read() == b"/through-the-service")
        except OSError:
            return False

    wait_until("the service answers", answers, READY_S)


def test_a_pod_shows_its_log_runs_commands_and_knows_names(cluster: AnyCluster, pod: str) -> None:
    ask = (
        "import urllib.request as u; "
        f"print(u.urlopen('http://{pod}.default.svc.cluster.local/by-name', timeout=5).read())"
    )

    def by_name() -> bool:
        try:
            return "/by-name" in cluster.kubectl("exec", pod, "--", "python3", "-c", ask)
        except CommandFailed:
            return False

    wait_until("the pod reaches the service by its name", by_name, READY_S)
    assert "GET /by-name" in cluster.kubectl("logs", pod)


def test_a_deleted_pod_is_asked_to_drain_before_it_is_ended(cluster: AnyCluster, pod: str) -> None:
    program = ("kubectl", f"--kubeconfig={cluster.kubeconfig}", "logs", "--follow", pod)
    if isinstance(cluster, Cluster):
        program = (str(cluster.kubectl_program), *program[1:])
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        following.stdout.readline()
        cluster.kubectl("delete", "pod", pod)
        rest, _ = following.communicate(timeout=READY_S)
    assert "GET /drain" in rest.splitlines()[-1]


def test_nothing_is_left_when_a_cluster_is_down(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    require_cluster_support(request, {})
    cluster = Cluster.up(tmp_path / "c", nodes=2)
    here = str(cluster.folder)
    assert _running(here)
    assert _traces(cluster.plan)
    cluster.lose_power(1)
    cluster.down()
    assert not cluster.folder.exists()
    assert not _running(here)
    assert here not in Path("/proc/self/mountinfo").read_text()
    assert not _traces(cluster.plan)


def _running(folder: str) -> list[str]:
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line.decode(errors="replace") for line in lines if folder.encode() in line]


def _traces(plan: Addresses) -> list[str]:
    """Return the cluster's links, routes, firewall rules and control groups on this machine."""
    shown = run(["ip", "-o", "addr"]) + run(["ip", "route"]) + run(["iptables-save"])
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()]
    marks = (plan.bridge, plan.veth(0), plan.veth(1), f"10.{plan.net}.")
    return [line for line in (*shown.splitlines(), *groups) if any(mark in line for mark in marks)]
