"""Scaling, rollouts and failures, with clients that stream all the while."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest

from tests.e2e.kube.counted import Counted
from tests.e2e.kube.load import Load
from tests.e2e.kube.stack import NAMESPACE, Stack
from tests.kube.cluster import Cluster

pytestmark = pytest.mark.kube

NAME = "busy"
ROLLOUT = {"drainSeconds": 90, "progressDeadlineSeconds": 90}
SPEC = {"replicas": 2, "rollout": ROLLOUT}


@pytest.fixture(scope="module", autouse=True)
def service(stack: Stack) -> Iterator[None]:
    """A service that every test finds as it should be, and leaves so."""
    stack.apply(NAME, **SPEC)
    stack.until("it serves", lambda: stack.settled(NAME, 2))
    stack.first_token_s(NAME, 60)
    yield
    stack.kubectl("delete", "modelservice", NAME, "--wait=false")


def _nothing_lost(counted: Counted, part: str, load: Load) -> None:
    counted.streams(part, load.counts)
    assert load.counts.requests > 0
    assert not load.counts.samples


def test_nothing_is_cut_when_it_scales_up_and_down(stack: Stack, counted: Counted) -> None:
    with Load(stack.url, NAME) as load:
        stack.kubectl("scale", "modelservice", NAME, "--replicas=6")
        up_s = stack.until("six serve", lambda: stack.settled(NAME, 6), 180)
        stack.kubectl("scale", "modelservice", NAME, "--replicas=2")
        down_s = stack.until("two are left", lambda: stack.settled(NAME, 2), 180)
    counted.figures |= {"scale.up_s": round(up_s, 1), "scale.down_s": round(down_s, 1)}
    _nothing_lost(counted, "scale", load)


def test_nothing_is_cut_when_arguments_change(stack: Stack, counted: Counted) -> None:
    before = {pod["metadata"]["uid"] for pod in stack.pods(NAME)}
    with Load(stack.url, NAME) as load:
        stack.apply(NAME, **SPEC, engine={"args": ["--set", "engine.max_num_seqs=64"]})
        took_s = stack.until(
            "all are exchanged",
            lambda: (
                stack.settled(NAME, 2)
                and not before & {pod["metadata"]["uid"] for pod in stack.pods(NAME)}
            ),
            240,
        )
    counted.figures["rollout.took_s"] = round(took_s, 1)
    _nothing_lost(counted, "rollout", load)


def test_a_broken_revision_stops_by_itself_and_goes_back(stack: Stack, counted: Counted) -> None:
    before = {pod["metadata"]["uid"] for pod in stack.pods(NAME)}
    with Load(stack.url, NAME) as load:
        stack.apply(NAME, **SPEC, engine={"args": ["--no-such-flag"]})
        took_s = stack.until(
            "it is rolled back",
            lambda: stack.condition(NAME, "Progressing") == ("False", "RolledBack"),
            180,
        )
        stack.until("its pods are gone", lambda: len(stack.pods(NAME)) == 2, 60)
    counted.figures["bad_revision.rolled_back_s"] = round(took_s, 1)
    assert {pod["metadata"]["uid"] for pod in stack.pods(NAME)} == before
    assert stack.condition(NAME, "Available")[0] == "True"
    _nothing_lost(counted, "bad_revision", load)
    stack.apply(NAME, **SPEC, engine={"args": ["--set", "engine.max_num_seqs=64"]})
    stack.until("it is whole again", lambda: stack.settled(NAME, 2))


def test_traffic_does_not_need_the_api_server(stack: Stack, counted: Counted) -> None:
    if not isinstance(stack.cluster, Cluster):
        pytest.skip("the API server of a cluster elsewhere is not ours to restart")
    with Load(stack.url, NAME) as load:
        before = load.counts.requests
        stack.cluster.restart_apiserver()
        stack.until("streams went on", lambda: load.counts.requests >= before + 8, 60)
        stack.kubectl("scale", "modelservice", NAME, "--replicas=3")
        stack.until("it is obeyed afterwards", lambda: stack.settled(NAME, 3), 120)
        stack.kubectl("scale", "modelservice", NAME, "--replicas=2")
        stack.until("and again", lambda: stack.settled(NAME, 2), 120)
    _nothing_lost(counted, "apiserver", load)


def test_it_converges_though_the_controller_is_killed(stack: Stack, counted: Counted) -> None:
    rng = random.Random(6)
    converged = 0
    slowest_s = 0.0
    for _ in range(20):
        wanted = rng.choice([1, 2, 3])
        stack.kubectl("scale", "modelservice", NAME, f"--replicas={wanted}")
        time.sleep(rng.uniform(0, 1.5))  # a random moment is what it is about
        _kill_leader(stack)
        slowest_s = max(slowest_s, stack.until("it settles", partial(stack.settled, NAME, wanted)))
        assert len(stack.alive(NAME)) == wanted
        converged += 1
    counted.figures["controller_kills.converged"] = converged
    counted.figures["controller_kills.slowest_s"] = round(slowest_s, 1)
    stack.kubectl("scale", "modelservice", NAME, "--replicas=2")
    stack.until("it is whole again", lambda: stack.settled(NAME, 2))


def test_a_lost_node_is_replaced_and_its_traffic_moved(stack: Stack, counted: Counted) -> None:
    cluster = stack.cluster
    if not isinstance(cluster, Cluster):
        pytest.skip("the nodes of a cluster elsewhere are not ours to lose")
    lost = {pod["metadata"]["uid"] for pod in stack.pods(NAME) if _is_on(pod, 1)}
    assert lost, "a replica runs on the node that is to be lost"
    with Load(stack.url, NAME) as load:
        cluster.stop_kubelet(1)
        try:
            took_s = stack.until(
                "others serve in their place",
                lambda: (
                    sum(_is_ready(pod) and not _is_on(pod, 1) for pod in stack.alive(NAME)) == 2
                ),
                180,
            )
        finally:
            cluster.start_kubelet(1)
        stack.until("what was lost is gone", lambda: stack.settled(NAME, 2), 180)
    counted.figures["node_lost.replaced_s"] = round(took_s, 1)
    _nothing_lost(counted, "node_lost", load)


def _kill_leader(stack: Stack) -> None:
    """Kill the controller that acts, without a chance to give its lease back."""
    at = ("-o", "jsonpath={.spec.holderIdentity}")
    [lease] = stack.cluster.kubectl("-n", NAMESPACE, "get", "leases", "-o", "name").split()
    holder = stack.cluster.kubectl("-n", NAMESPACE, "get", lease, *at)
    pod = holder.rpartition("_")[0]  # as ``own_name`` makes it; no host's name has an underscore
    if pod:
        stack.cluster.kubectl(
            *("-n", NAMESPACE, "delete", "pod", pod, "--force", "--grace-period=0"),
            *("--ignore-not-found", "--wait=false"),
        )


def _is_on(pod: Mapping[str, Any], index: int) -> bool:
    return bool(pod["spec"].get("nodeName") == f"node-{index}")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
