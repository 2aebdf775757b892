from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from controller.fleets.config import FleetSettings
from controller.fleets.ray.names import ReplicaName
from controller.fleets.ray.shape import demand, revision, why_waiting


def settings(**changes: object) -> FleetSettings:
    return FleetSettings.model_validate({"kind": "ray", **changes})


def test_a_name_reads_back_as_it_was_written() -> None:
    name = ReplicaName("my-fleet", 3, "abc", "1f")
    assert ReplicaName.parse(str(name)) == name
    assert name.short == "my-fleet-3-1f"


@pytest.mark.parametrize("text", ["", "trainer", "headrace:f:x:r:t", "headrace:f:1:r", "a:f:1:r:t"])
def test_names_of_others_are_none_of_ours(text: str) -> None:
    assert ReplicaName.parse(text) is None


def test_a_simulated_replica_asks_for_no_card_unless_told() -> None:
    assert demand(settings()).bundles == ({"CPU": 1.0},)
    told = demand(settings(ray={"cards_per_node": 2, "cpus_per_node": 3, "resources": {"rdma": 1}}))
    assert told.bundles == ({"CPU": 3.0, "GPU": 2.0, "rdma": 1.0},)
    assert told.placement == "strict_pack"


def test_vllm_asks_for_its_cards_shared_out_over_its_nodes() -> None:
    asked = demand(settings(engine="vllm", model="m/m", tp=8, pp=2, nodes=2))
    assert asked.bundles == ({"CPU": 1.0, "GPU": 8.0},) * 2
    assert asked.placement == "strict_spread"


def test_a_revision_is_of_the_engine_only() -> None:
    first = revision(settings(), 0)
    other = settings(
        replicas=9, probe={"period_s": 3}, ray={"period_s": 3, "keep": True, "address": "h:1"}
    )
    assert revision(other, 0) == first
    assert revision(settings(), 5) == first
    for changed in ({"seed": 1}, {"tp": 2}, {"ray": {"cards_per_node": 1}}, {"env": {"A": "b"}}):
        assert revision(settings(**changed), 0) != first


def test_a_revision_is_of_the_role_of_its_replica() -> None:
    split = settings(replicas=2, roles=["prefill", "decode"])
    assert revision(split, 0) != revision(split, 1)


def test_a_revision_is_stable_between_processes() -> None:
    code = (
        "from controller.fleets.config import FleetSettings as F;"
        "from controller.fleets.ray.shape import revision;"
        "print(revision(F(env={'b': '1', 'a': '2'}), 0))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


def test_what_finds_no_room_is_told_with_what_is_there() -> None:
    asked = demand(settings(nodes=2, ray={"cards_per_node": 4}))
    nodes = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0}]
    assert why_waiting(asked, nodes, {"CPU": 15.0}) == (
        "no room: asks for 2 x (1 CPU + 4 GPU), strict_spread; the cluster has 15 of 16 CPU free, "
        "0 of 4 GPU free on 2 node(s), of which 1 could hold one share when empty"
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gpus": [0]}, "gpus: Ray deals them"),
        ({"engine": "vllm", "model": "m", "tp": 3, "nodes": 2}, "cannot share evenly"),
        ({"kind": "local", "nodes": 2}, "more than 1 needs kind ray"),
        ({"ray": {"address": "ray://head:10001"}}, "Ray Client is not supported"),
        ({"ray": {"resources": {"GPU": 1}}}, "GPU: more than 0 is needed"),
        ({"ray": {"name": "a:b"}}, "name"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        settings(**changes)
