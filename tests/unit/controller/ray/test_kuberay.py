from __future__ import annotations

import re
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from controller.fleets.ray import joined
from controller.fleets.ray.kuberay import HEAD_SCRIPT, WORKER_SCRIPT, RayReplica, ray_cluster


def replica(**changes: object) -> RayReplica:
    values: dict[str, object] = {
        "name": "r",
        "namespace": "n",
        "image": "i",
        "ray_version": "2.60.0",
        "command": ("serve",),
        "nodes": 3,
        **changes,
    }
    return RayReplica(**values)  # type: ignore[arg-type]


def test_the_head_is_one_of_the_nodes() -> None:
    (group,) = ray_cluster(replica(), "gate")["spec"]["workerGroupSpecs"]
    assert [group[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [2, 2, 2]


def test_only_the_head_is_an_endpoint() -> None:
    spec = ray_cluster(replica(labels={"a": "b"}, annotations={"e": "f"}), "gate")["spec"]
    assert spec["headGroupSpec"]["template"]["metadata"]["labels"] == {"a": "b"}
    assert spec["headGroupSpec"]["template"]["metadata"]["annotations"]["e"] == "f"
    assert spec["workerGroupSpecs"][0]["template"]["metadata"] == {"labels": {}}


def test_the_pod_of_the_head_takes_a_sidecar() -> None:
    both = replica(before=[{"name": "fetch"}], sidecars=[{"name": "runtime"}])
    spec = ray_cluster(both, "gate")["spec"]
    pod = spec["headGroupSpec"]["template"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["fetch", "runtime"]
    assert [each["name"] for each in pod["containers"]] == ["engine"]
    (group,) = spec["workerGroupSpecs"]
    assert group["template"]["spec"]["initContainers"] == [{"name": "fetch"}]


def test_no_container_is_left_to_probes_of_kuberay() -> None:
    probes: dict[str, object] = {"readinessProbe": {}, "livenessProbe": {}}
    spec = ray_cluster(replica(head=probes), "gate")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert probes.keys() <= container.keys()


def test_nodes_find_a_head_that_is_not_ready_and_lie_on_machines_of_their_own() -> None:
    spec = ray_cluster(replica(), "gate")["spec"]
    service = spec["headGroupSpec"]["headService"]["spec"]
    assert service == {"clusterIP": "None", "publishNotReadyAddresses": True}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        apart = group["template"]["spec"]["affinity"]["podAntiAffinity"]
        (term,) = apart["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["labelSelector"] == {"matchLabels": {"ray.io/cluster": "r"}}


def test_a_replica_of_one_node_is_refused_and_so_is_a_long_name() -> None:
    with pytest.raises(ValueError, match="a replica of one node is a pod"):
        replica(nodes=1)
    with pytest.raises(ValueError, match="longer than 50"):
        replica(name="x" * 51)


def head_env(gate: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "KUBERAY_GEN_RAY_START_CMD": "sleep 30",
        "HEADRACE_JOINED": gate,
        "HEADRACE_NODES": "2",
        "HEADRACE_CARDS": "0",
        "HEADRACE_JOIN_S": "1",
    }


def run_head(folder: Path, gate: str, engine: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", HEAD_SCRIPT, "engine", "/bin/sh", "-c", engine],
        env=head_env(gate),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_the_engine_is_not_started_when_nodes_are_missing(tmp_path: Path) -> None:
    done = run_head(tmp_path, "import sys; sys.exit(1)", "touch started")
    assert done.returncode == 1
    assert not (tmp_path / "started").exists()


def test_a_head_that_waits_for_its_nodes_can_be_ended(tmp_path: Path) -> None:
    gate = "import pathlib, time; pathlib.Path('waits').touch(); time.sleep(30)"
    with subprocess.Popen(
        ["/bin/bash", "-c", HEAD_SCRIPT, "engine", "/bin/sh", "-c", "touch started"],
        env=head_env(gate),
        cwd=tmp_path,
    ) as head:
        while not (tmp_path / "waits").exists():
            assert head.poll() is None
        head.terminate()
        assert head.wait(10) == 1
    assert not (tmp_path / "started").exists()


def test_the_engine_is_started_once_the_gate_opens_and_its_end_is_the_container_s(
    tmp_path: Path,
) -> None:
    gate = "import sys; print(' '.join(sys.argv[1:]))"
    done = run_head(tmp_path, gate, "touch started; exit 7")
    assert done.returncode == 7
    assert done.stdout.strip() == "--nodes 2 --cards-per-node 0 --within 1"
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize("head_is_there", [True, False])
def test_a_node_that_is_to_go_stays_as_long_as_its_head(
    tmp_path: Path, head_is_there: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        node = subprocess.Popen(
            ["/bin/bash", "-c", f"touch up; {WORKER_SCRIPT}"],
            env={
                "PATH": "/usr/bin:/bin",
                "KUBERAY_GEN_RAY_START_CMD": "sleep 30",
                "FQ_RAY_IP": "127.0.0.1",
                "RAY_PORT": str(head.getsockname()[1]),
            },
            cwd=tmp_path,
        )
        while not ray_runs(node.pid):
            assert node.poll() is None
        if not head_is_there:
            head.close()
        node.terminate()
        if head_is_there:
            head.settimeout(10)
            head.accept()[0].close()  # it asks whether the head is there
            assert node.poll() is None
    assert node.wait(10) == 0


def test_a_node_ends_with_its_ray(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", "-c", WORKER_SCRIPT],
        env={"PATH": "/usr/bin:/bin", "KUBERAY_GEN_RAY_START_CMD": "false", "FQ_RAY_IP": "x"},
        timeout=10,
        check=False,
    )
    assert done.returncode == 1


def ray_runs(pid: int) -> bool:
    """Whether the script has started Ray, here ``sleep``, and is ready to be asked to go."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert caught is not None
    if not int(caught[1], 16) & 1 << (signal.SIGTERM - 1):
        return False
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # those before it come and go
            if child.name() == "sleep":
                return True
    return False


def test_nodes_count_when_they_live_and_have_their_cards() -> None:
    def node(gpus: float, alive: bool = True) -> dict[str, object]:
        return {"Alive": alive, "Resources": {"GPU": gpus} if gpus else {}}

    assert joined.complete([node(8), node(8)], 2, 8)
    assert not joined.complete([node(8), node(8, alive=False)], 2, 8)
    assert not joined.complete([node(8), node(4)], 2, 8)
    assert joined.complete([node(0), node(0)], 2, 0)
