from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from controller.fleets.ray import joined
from controller.fleets.ray.kuberay import HEAD_SCRIPT, RayReplica, ray_cluster


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
    spec = ray_cluster(replica(head={"initContainers": [{"name": "runtime"}]}), "gate")["spec"]
    pod = spec["headGroupSpec"]["template"]["spec"]
    assert pod["initContainers"] == [{"name": "runtime"}]
    assert [each["name"] for each in pod["containers"]] == ["engine"]


def test_a_replica_of_one_node_is_refused_and_so_is_a_long_name() -> None:
    with pytest.raises(ValueError, match="a replica of one node is a pod"):
        replica(nodes=1)
    with pytest.raises(ValueError, match="longer than 50"):
        replica(name="x" * 51)


def run_head(folder: Path, gate: str, engine: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", HEAD_SCRIPT, "engine", "/bin/sh", "-c", engine],
        env={
            "PATH": "/usr/bin:/bin",
            "KUBERAY_GEN_RAY_START_CMD": "sleep 30",
            "HEADRACE_JOINED": gate,
            "HEADRACE_NODES": "2",
            "HEADRACE_CARDS": "0",
            "HEADRACE_JOIN_S": "1",
        },
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


def test_the_engine_is_started_once_the_gate_opens_and_its_end_is_the_container_s(
    tmp_path: Path,
) -> None:
    gate = "import sys; print(' '.join(sys.argv[1:]))"
    done = run_head(tmp_path, gate, "touch started; exit 7")
    assert done.returncode == 7
    assert done.stdout.strip() == "--nodes 2 --cards-per-node 0 --within 1"
    assert (tmp_path / "started").exists()


def test_nodes_count_when_they_live_and_have_their_cards() -> None:
    def node(gpus: float, alive: bool = True) -> dict[str, object]:
        return {"Alive": alive, "Resources": {"GPU": gpus} if gpus else {}}

    assert joined.complete([node(8), node(8)], 2, 8)
    assert not joined.complete([node(8), node(8, alive=False)], 2, 8)
    assert not joined.complete([node(8), node(4)], 2, 8)
    assert joined.complete([node(0), node(0)], 2, 0)
