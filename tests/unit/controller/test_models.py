"""What the controller does about one service, in sentences."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from controller.api.model_service import Variant
from controller.models.pod import Images, revision, template
from controller.models.spread import spread
from controller.models.state import Create, Delete, Owner, SetStatus, Tell
from tests.support.model_cluster import ModelCluster, spec_of

OWNER = Owner("m", "default", "uid", 1)
IMAGES = Images("headrace:test", {})


def settled(**fields: object) -> ModelCluster:
    cluster = ModelCluster(spec_of(**fields))
    cluster.settle()
    return cluster


def condition(cluster: ModelCluster, kind: str) -> tuple[str, str]:
    [found] = [item for item in cluster.status["conditions"] if item["type"] == kind]
    return found["status"], found["reason"]


def test_it_makes_the_replicas_asked_for_and_then_rests() -> None:
    cluster = settled(replicas=3)
    assert cluster.ready() == 3
    assert cluster.decide().actions == ()
    assert condition(cluster, "Available") == ("True", "EnoughReady")
    assert condition(cluster, "Progressing") == ("True", "Complete")


def test_a_change_of_scale_exchanges_nobody() -> None:
    cluster = settled(replicas=2)
    before = {pod.uid for pod in cluster.alive()}
    cluster.spec = spec_of(replicas=5)
    cluster.settle()
    assert before < {pod.uid for pod in cluster.alive()}
    cluster.spec = spec_of(replicas=0)
    cluster.settle()
    assert not cluster.alive()
    assert condition(cluster, "Available") == ("True", "ScaledToZero")


def test_scaling_down_takes_who_is_not_ready_then_the_youngest() -> None:
    cluster = settled(replicas=3)
    names = sorted(cluster.pods)
    cluster.pods[names[0]] = replace(cluster.pods[names[0]], ready=False, why="x")
    cluster.pods[names[2]] = replace(cluster.pods[names[2]], created_s=50.0)
    cluster.spec = spec_of(replicas=1)
    gone = [a.name for a in cluster.decide().actions if isinstance(a, Delete) and a.kind == "Pod"]
    assert gone == [names[0], names[2]]


def test_a_rollout_never_goes_below_what_is_wanted_nor_above_the_surge() -> None:
    cluster = settled(replicas=3)
    cluster.spec = spec_of(replicas=3, engine={"args": ["--new"]})
    cluster.generation = 2
    for _ in range(50):
        cluster.do(cluster.decide().actions)
        assert cluster.ready() >= 3
        assert len(cluster.alive()) <= 4
        waiting = [name for name, pod in cluster.pods.items() if not pod.ready]
        if waiting:
            cluster.become_ready(waiting[0])
        for name in list(cluster.pods):
            cluster.go(name)
    assert {pod.revision for pod in cluster.alive()} == {cluster.status["variants"][0]["revision"]}
    assert cluster.decide().actions == ()


def test_a_broken_revision_stops_after_its_deadline_and_goes_back() -> None:
    cluster = settled(replicas=2)
    good = {pod.uid for pod in cluster.alive()}
    cluster.spec = spec_of(replicas=2, engine={"args": ["--broken"]})
    cluster.do(cluster.decide().actions)
    assert len(cluster.alive()) == 3
    assert cluster.decide().again_s == pytest.approx(1_800)
    cluster.now_s += 1_801
    told = [a.reason for a in cluster.decide().actions if isinstance(a, Tell)]
    assert told == ["RolledBack"]
    cluster.settle()
    assert {pod.uid for pod in cluster.alive()} == good
    assert condition(cluster, "Progressing") == ("False", "RolledBack")
    assert condition(cluster, "Available") == ("True", "EnoughReady")
    cluster.spec = spec_of(replicas=3, engine={"args": ["--broken"]})
    cluster.settle()
    assert cluster.ready() == 3, "scaling while rolled back makes more of what works"


def test_a_revision_that_crashes_again_and_again_fails_before_its_deadline() -> None:
    cluster = settled(replicas=1)
    cluster.spec = spec_of(replicas=1, engine={"args": ["--broken"]})
    cluster.do(cluster.decide().actions)
    [name] = [pod.name for pod in cluster.alive() if not pod.ready]
    cluster.pods[name] = replace(cluster.pods[name], restarts=3)
    cluster.settle()
    assert condition(cluster, "Progressing") == ("False", "RolledBack")


def stalled(**rollout: object) -> tuple[ModelCluster, str]:
    """Return a rollout one of whose new replicas serves, and the name of one that never does."""
    cluster = settled(replicas=3, rollout=rollout)
    cluster.now_s = 100.0
    cluster.spec = spec_of(replicas=3, rollout=rollout, engine={"args": ["--new"]})
    cluster.do(cluster.decide().actions)
    [first] = [name for name, pod in cluster.pods.items() if not pod.ready]
    cluster.now_s = 1_000.0
    cluster.become_ready(first)
    cluster.do(cluster.decide().actions)
    for name in list(cluster.pods):
        cluster.go(name)
    cluster.do(cluster.decide().actions)
    [stuck] = [name for name, pod in cluster.pods.items() if not pod.ready]
    cluster.pods[stuck] = replace(cluster.pods[stuck], why="Unschedulable: no card is free")
    return cluster, stuck


def test_a_rollout_that_stands_still_half_way_fails_after_its_deadline_and_goes_back() -> None:
    cluster, _ = stalled()
    old = cluster.status["variants"][0]["stableRevision"]
    cluster.do(cluster.decide().actions)
    assert cluster.decide().again_s == pytest.approx(1_800)
    cluster.now_s += 1_799
    assert condition(cluster, "Progressing") == ("True", "Rolling")
    assert cluster.decide().actions == ()
    cluster.now_s += 1
    [told] = [action for action in cluster.decide().actions if isinstance(action, Tell)]
    assert told.reason == "RolledBack"
    assert "1 of 3 ready, no more for 1800 s: Unschedulable: no card is free" in told.message
    for _ in range(50):
        cluster.do(cluster.decide().actions)
        assert cluster.ready() >= 3, "the way back keeps the limits too"
        for name in list(cluster.pods):
            cluster.go(name)
            if name in cluster.pods and cluster.pods[name].revision == old:
                cluster.become_ready(name)
    assert {pod.revision for pod in cluster.alive()} == {old}
    assert cluster.decide().actions == ()
    assert condition(cluster, "Progressing") == ("False", "RolledBack")


def test_every_replica_that_becomes_ready_begins_the_deadline_anew() -> None:
    cluster, stuck = stalled()
    cluster.now_s += 1_700
    cluster.become_ready(stuck)
    cluster.do(cluster.decide().actions)
    for name in list(cluster.pods):
        cluster.go(name)
    cluster.do(cluster.decide().actions)
    cluster.now_s += 1_700
    cluster.do(cluster.decide().actions)
    assert condition(cluster, "Progressing") == ("True", "Rolling")
    cluster.settle()
    assert condition(cluster, "Progressing") == ("True", "Complete")


def test_a_replica_that_waits_again_late_in_a_long_rollout_is_not_its_end() -> None:
    cluster, stuck = stalled()
    [served] = [p.name for p in cluster.alive() if p.created_s == 100.0]
    cluster.now_s = 5_000.0
    cluster.pods[stuck] = replace(cluster.pods[stuck], ready=True, ready_since_s=4_990.0)
    cluster.pods[served] = replace(cluster.pods[served], ready=False, ready_since_s=0.0)
    assert not [a for a in cluster.decide().actions if isinstance(a, Tell)]


def test_without_rollback_a_rollout_that_stands_still_goes_on_once_who_waited_serves() -> None:
    cluster, stuck = stalled(rollback=False)
    cluster.now_s += 1_800
    cluster.do(cluster.decide().actions)
    assert condition(cluster, "Progressing") == ("False", "RevisionFailed")
    assert cluster.ready() == 3
    assert cluster.decide().actions == ()
    cluster.become_ready(stuck)
    cluster.settle()
    assert condition(cluster, "Progressing") == ("True", "Complete")


def test_scaling_up_what_served_before_has_no_deadline() -> None:
    cluster = settled(replicas=2)
    cluster.spec = spec_of(replicas=3)
    cluster.do(cluster.decide().actions)
    cluster.now_s += 100_000
    cluster.do(cluster.decide().actions)
    assert condition(cluster, "Progressing") == ("True", "Starting")
    assert cluster.decide().again_s is None


def test_without_a_good_revision_a_broken_one_is_left_to_be_looked_at() -> None:
    cluster = ModelCluster(spec_of(replicas=2, engine={"args": ["--broken"]}))
    cluster.settle()
    assert condition(cluster, "Progressing") == ("False", "RevisionFailed")
    assert len(cluster.alive()) == 2
    cluster.spec = spec_of(replicas=2)
    cluster.settle()
    assert cluster.ready() == 2
    assert condition(cluster, "Progressing") == ("True", "Complete")


def test_without_rollback_a_broken_revision_stands_still() -> None:
    rollout = {"rollback": False}
    cluster = settled(replicas=2, rollout=rollout)
    cluster.spec = spec_of(replicas=2, rollout=rollout, engine={"args": ["--broken"]})
    cluster.settle()
    assert cluster.ready() == 2
    assert condition(cluster, "Progressing") == ("False", "RevisionFailed")


def test_a_replica_that_ended_or_was_lost_is_replaced() -> None:
    cluster = settled(replicas=2)
    first, second = sorted(cluster.pods)
    cluster.pods[first] = replace(cluster.pods[first], failed=True, ready=False)
    cluster.pods[second] = replace(cluster.pods[second], ending=True)
    made = [a for a in cluster.decide().actions if isinstance(a, Create)]
    assert len(made) == 2
    cluster.settle()
    assert cluster.ready() == 2


def test_deciding_twice_from_the_same_sight_asks_for_the_same() -> None:
    cluster = ModelCluster(spec_of(replicas=3))
    seen = cluster.observed()
    cluster.do(cluster.decide(seen).actions)
    cluster.do(cluster.decide(seen).actions)
    assert len(cluster.alive()) == 3


def test_replicas_of_a_variant_that_is_gone_serve_until_the_others_do() -> None:
    cluster = settled(replicas=2, variants=[{"name": "old"}])
    cluster.spec = spec_of(replicas=2, variants=[{"name": "new"}])
    cluster.do(cluster.decide().actions)
    assert cluster.ready() == 2
    cluster.settle()
    assert {pod.variant for pod in cluster.alive()} == {"new"}


def test_templates_that_nobody_needs_are_dropped() -> None:
    cluster = settled(replicas=1)
    for number in range(4):
        cluster.spec = spec_of(replicas=1, engine={"args": [f"--n={number}"]})
        cluster.settle()
    kept = [key for key in cluster.others if key[0] == "ControllerRevision"]
    assert len(kept) == 1


def test_endpoints_are_published_to_gateways_where_the_cluster_has_the_kind() -> None:
    cluster = settled(replicas=1)
    assert ("InferencePool", "m") not in cluster.others
    cluster.kinds |= {"InferencePool"}
    cluster.settle()
    pool = cluster.others["InferencePool", "m"]["spec"]
    assert pool["selector"] == {"matchLabels": {"headrace.dev/model-service": "m"}}
    assert pool["targetPorts"] == [{"number": 8000}]
    assert pool["endpointPickerRef"]["failureMode"] == "FailOpen"


def test_at_rest_the_status_is_not_written() -> None:
    cluster = settled(replicas=2)
    cluster.now_s += 10_000
    assert not [a for a in cluster.decide().actions if isinstance(a, SetStatus)]


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [(0, {"a": 1, "b": 0, "c": 0}), (2, {"a": 1, "b": 1, "c": 0}), (9, {"a": 1, "b": 3, "c": 5})],
)
def test_the_rest_goes_to_the_cheapest_that_may_have_more(
    replicas: int, expected: dict[str, int]
) -> None:
    variants = [
        Variant(name="a", min_replicas=1, max_replicas=4, price_per_hour=9.0),
        Variant(name="b", max_replicas=3, price_per_hour=1.0),
        Variant(name="c", price_per_hour=2.0),
    ]
    assert spread(replicas, variants) == expected


def test_equal_specs_make_equal_templates_whatever_their_scale() -> None:
    small, large = spec_of(replicas=1), spec_of(replicas=9)
    one = template(OWNER, small, small.variants[0], IMAGES)
    assert revision(one) == revision(template(OWNER, large, large.variants[0], IMAGES))
    other = spec_of(engine={"args": ["--x"]})
    assert revision(one) != revision(template(OWNER, other, other.variants[0], IMAGES))


def test_an_engine_waits_for_its_streams_before_it_is_told_to_end() -> None:
    spec = spec_of(rollout={"drainSeconds": 100})
    made = template(OWNER, spec, spec.variants[0], IMAGES)["spec"]
    [engine] = made["containers"]
    assert engine["lifecycle"]["preStop"]["httpGet"] == {"path": "/drain", "port": 8081}
    assert made["terminationGracePeriodSeconds"] > 100
    [runtime] = made["initContainers"]
    assert runtime["args"][-2:] == ["--drain-limit-s", "100"]


def test_a_remote_model_is_fetched_before_the_engine_starts() -> None:
    spec = spec_of(engine={"kind": "vllm"}, model={"source": "s3://bucket/model"})
    made = template(OWNER, spec, spec.variants[0], IMAGES)["spec"]
    assert [c["name"] for c in made["initContainers"]] == ["fetch", "runtime"]
    fetch, runtime = (container["args"] for container in made["initContainers"])
    link = fetch[fetch.index("--link") + 1]
    args = made["containers"][0]["args"]
    assert args[args.index("--model") + 1] == link
    assert runtime[runtime.index("--hold") + 1] == link


def test_pods_that_share_a_cache_find_each_its_own_model() -> None:
    def link(source: str) -> str:
        spec = spec_of(engine={"kind": "vllm"}, model={"source": source})
        args = template(OWNER, spec, spec.variants[0], IMAGES)["spec"]["containers"][0]["args"]
        found: str = args[args.index("--model") + 1]
        return found

    assert link("s3://bucket/a") == link("s3://bucket/a") != link("s3://bucket/b")


def test_adapters_may_come_from_where_the_spec_says() -> None:
    def told(**fields: object) -> list[str]:
        spec = spec_of(**fields)
        [runtime] = template(OWNER, spec, spec.variants[0], IMAGES)["spec"]["initContainers"]
        args: list[str] = runtime["args"]
        return [args[at + 1] for at, word in enumerate(args) if word == "--allow"]

    assert told() == told(lora={}) == []
    assert told(lora={"sources": ["s3://a/", "https://b/c"]}) == ["s3://a/", "https://b/c"]


def test_sidecar_engine_and_gateways_are_told_of_one_bound_of_adapters() -> None:
    spec = spec_of(lora={"maxLoras": 2, "maxCpuLoras": 5})
    made = template(OWNER, spec, spec.variants[0], IMAGES)
    [runtime] = made["spec"]["initContainers"]
    assert runtime["args"][runtime["args"].index("--adapters") + 1] == "5"
    assert "engine.max_cpu_loras=5" in made["spec"]["containers"][0]["args"]
    assert json.loads(made["annotations"]["headrace.dev/endpoint"])["adapter_room"] == 5
    none = template(OWNER, spec_of(), spec_of().variants[0], IMAGES)
    assert "--adapters" not in none["spec"]["initContainers"][0]["args"]
    assert "adapter_room" not in json.loads(none["annotations"]["headrace.dev/endpoint"])


def test_cards_are_asked_for_and_dealt_to_nodes() -> None:
    spec = spec_of(
        engine={"kind": "vllm"},
        model={"source": "org/model"},
        variants=[{"name": "h100", "accelerator": {"name": "H100"}, "tensorParallel": 2}],
    )
    made = template(OWNER, spec, spec.variants[0], IMAGES)["spec"]
    assert made["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in made["volumes"]
