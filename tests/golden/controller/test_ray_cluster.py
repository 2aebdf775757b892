"""The RayCluster of a replica, byte for byte. To renew: delete the file, run, and review it."""

from __future__ import annotations

from pathlib import Path

import yaml

from controller.fleets.ray.kuberay import RayReplica, ray_cluster

GOLDEN = Path(__file__).with_name("ray_cluster.yaml")

REPLICA = RayReplica(
    name="llama-405b-0",
    namespace="models",
    image="vllm/vllm-openai:v0.32.0",
    ray_version="2.60.0",
    command=("vllm", "serve", "meta-llama/Llama-3.1-405B", "--distributed-executor-backend", "ray"),
    nodes=2,
    cards_per_node=8,
    resources={
        "requests": {"cpu": "32", "memory": "512Gi", "nvidia.com/gpu": "8"},
        "limits": {"memory": "512Gi", "nvidia.com/gpu": "8"},
    },
    env=({"name": "HF_HOME", "value": "/models"},),
    mounts=({"name": "cache", "mountPath": "/models"},),
    volumes=({"name": "cache", "emptyDir": {}},),
    head={"readinessProbe": {"httpGet": {"path": "/health", "port": "http"}}},
    pod={"priorityClassName": "high"},
    labels={"headrace.dev/model-service": "llama-405b", "headrace.dev/role": "both"},
    worker_labels={"headrace.dev/member-of": "llama-405b-0"},
    annotations={"headrace.dev/endpoint": '{"port":8000,"runtime_port":8081}'},
)


def test_a_replica_of_two_nodes_is_written_as_before() -> None:
    made = yaml.safe_dump(ray_cluster(REPLICA, "print('gate')"), sort_keys=False)
    if not GOLDEN.exists():
        GOLDEN.write_text(made)
    assert made == GOLDEN.read_text()


def test_the_manifest_holds_values_that_are_its_own() -> None:
    made = ray_cluster(REPLICA, "gate")
    head = made["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]
    head["limits"]["cpu"] = "1"
    assert head["requests"]["cpu"] == "32"
    assert ray_cluster(REPLICA, "gate") != made
