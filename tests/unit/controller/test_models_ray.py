"""Replicas that span machines, as the controller asks KubeRay for them."""

from __future__ import annotations

from typing import Any

from controller.api.model_service import ModelServiceSpec
from controller.models.pod import Images, replica, template
from controller.models.ray import short
from controller.models.reconcile import reconcile
from controller.models.state import Create, Decision, Observed, Owner, SetStatus
from tests.support.model_cluster import spec_of

OWNER = Owner("m", "default", "uid", 1)
IMAGES = Images("headrace:test", {}, ray_version="2.60.0", gate="gate")
KINDS = frozenset({"Pod", "PodDisruptionBudget", "ControllerRevision", "RayCluster"})
TEXT = "replicas of several nodes need KubeRay: this cluster has no RayCluster"


def two_nodes(**fields: Any) -> ModelServiceSpec:
    card = {"resource": "amd.com/gpu"}
    variant = {"name": "pair", "nodes": 2, "tensorParallel": 4, "accelerator": card}
    return spec_of(**{"variants": [variant], **fields})


def made(spec: ModelServiceSpec) -> dict[str, Any]:
    wanted = template(OWNER, spec, spec.variants[0], IMAGES)
    return replica(OWNER, "m-pair-0", wanted, "r")


def pods(cluster: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    (workers,) = cluster["spec"]["workerGroupSpecs"]
    head: dict[str, Any] = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    return head, workers["template"]["spec"]


def decided(owner: Owner, kinds: frozenset[str]) -> Decision:
    observed = Observed(owner=owner, spec=two_nodes(replicas=1), kinds=kinds)
    return reconcile(observed, IMAGES, 0.0, "now")


def created(decision: Decision) -> list[dict[str, Any]]:
    manifests = [dict(a.manifest) for a in decision.actions if isinstance(a, Create)]
    return [each for each in manifests if each["kind"] == "RayCluster"]


def test_every_node_has_the_engine_s_image_cards_and_variables() -> None:
    env = [{"name": "NCCL_DEBUG", "value": "INFO"}]
    for pod in pods(made(two_nodes(engine={"image": "i", "env": env}))):
        (container,) = pod["containers"]
        assert container["image"] == "i"
        assert env[0] in container["env"]
        assert container["resources"]["limits"] == {"amd.com/gpu": "2"}
        assert container["securityContext"]["runAsNonRoot"] is True


def test_every_node_fetches_the_model_and_only_the_head_has_the_sidecar() -> None:
    fetched = two_nodes(model={"source": "hf://a/b"}, engine={"kind": "vllm", "image": "i"})
    head, other = pods(made(fetched))
    assert [each["name"] for each in head["initContainers"]] == ["fetch", "runtime"]
    assert [each["name"] for each in other["initContainers"]] == ["fetch"]
    for pod in (head, other):
        mounted = {each["name"] for each in pod["containers"][0]["volumeMounts"]}
        assert {"shm", "cache"} <= mounted
        assert mounted <= {each["name"] for each in pod["volumes"]}
        assert len({each["name"] for each in pod["volumes"]}) == len(pod["volumes"])


def test_every_node_is_placed_and_secured_alike() -> None:
    extras = {"serviceAccountName": "a", "runtimeClassName": "nvidia"}
    head, other = pods(made(two_nodes(pod=extras)))
    alike = (
        *("serviceAccountName", "runtimeClassName", "tolerations", "securityContext"),
        *("automountServiceAccountToken", "terminationGracePeriodSeconds", "affinity"),
    )
    assert {key: head[key] for key in alike} == {key: other[key] for key in alike}


def test_the_head_drains_before_it_ends() -> None:
    head, other = pods(made(two_nodes()))
    assert head["containers"][0]["lifecycle"]["preStop"]["httpGet"]["path"] == "/drain"
    assert "lifecycle" not in other["containers"][0]


def test_a_name_is_short_enough_for_what_kuberay_makes_of_it() -> None:
    long = Owner("m" * 40, "default", "uid", 1)
    (cluster,) = created(decided(long, KINDS))
    assert len(cluster["metadata"]["name"]) <= 50
    stems = {short(f"{'m' * 40}-{variant}-12345") for variant in ("a" * 40, "b" * 40)}
    assert len(stems) == 2
    assert short("m-pair-12345") == "m-pair-12345"


def test_without_kuberay_none_is_made_and_the_status_says_why() -> None:
    decision = decided(OWNER, KINDS - {"RayCluster"})
    assert created(decision) == []
    (written,) = [a.status for a in decision.actions if isinstance(a, SetStatus)]
    assert written["variants"][0]["reason"] == TEXT
    (available,) = [c for c in written["conditions"] if c["type"] == "Available"]
    assert (available["status"], available["message"]) == ("False", f"0 of 1 are ready: {TEXT}")
