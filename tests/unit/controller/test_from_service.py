"""A ModelService as a local or a Ray fleet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from controller.api.documents import read_documents
from controller.api.model_service import ModelServiceSpec
from controller.fleets.config import FleetKind, FleetSettings
from controller.fleets.from_service import fleet_settings, ignored
from controller.models.pod import Images, template
from controller.models.state import Owner
from headrace.core.endpoint import Role
from headrace.core.errors import ConfigError
from headrace.runtime.engines.launch import EngineKind
from headrace.simulator.http.__main__ import settings_from

EXAMPLE = Path(__file__).resolve().parents[3] / "deploy" / "examples" / "model-service.yaml"
RAY = FleetSettings(kind=FleetKind.RAY)
VLLM: dict[str, Any] = {"engine": {"kind": "vllm"}, "model": {"source": "org/m"}}
CARD: dict[str, Any] = {"name": "a", "accelerator": {}}


def spec_of(**fields: Any) -> ModelServiceSpec:
    return ModelServiceSpec.model_validate_json(orjson.dumps(fields))


def fleet(base: FleetSettings | None = None, **fields: Any) -> FleetSettings:
    return fleet_settings("m", spec_of(**fields), base)


def problems(base: FleetSettings | None = None, **fields: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        fleet(base, **fields)
    return str(caught.value).splitlines()


def test_nothing_said_is_one_simulated_engine_called_as_the_service() -> None:
    made = fleet()
    assert (made.kind, made.engine) == (FleetKind.LOCAL, EngineKind.SIMULATED)
    assert (made.replicas, made.name_served, made.roles, made.tp) == (1, "m", (), None)
    assert made.timeouts.drain_s == 600
    assert not made.simulated.enable_lora


def test_a_simulated_engine_is_the_one_described() -> None:
    made = fleet(
        model={"name": "chat"},
        engine={
            "simulated": {"hardware": "A100", "model": "Qwen3-32B", "timeScale": 5},
            "args": ["--set", "engine.max_num_seqs=9"],
            "env": [{"name": "A", "value": "b"}],
            "kvEvents": False,
        },
        lora={"maxLoras": 2, "maxCpuLoras": 3},
        variants=[{**CARD, "tensorParallel": 2, "args": ["--set", "engine.block_size=32"]}],
        rollout={"drainSeconds": 7},
        replicas=3,
    )
    assert (made.simulated.hardware, made.simulated.model) == ("A100", "Qwen3-32B")
    assert (made.time_scale, made.tp, made.replicas, made.name_served) == (5.0, 2, 3, "chat")
    assert made.engine_args == (
        "--set", "engine.max_num_seqs=9", "--set", "engine.block_size=32"
    )  # fmt: skip
    assert (made.env, made.kv_events, made.timeouts.drain_s) == ({"A": "b"}, False, 7.0)
    assert (made.simulated.max_loras, made.simulated.max_cpu_loras) == (2, 3)
    assert made.gpus == ()


def test_vllm_gets_its_model_its_cards_and_what_lets_it_load_adapters() -> None:
    made = fleet(
        **VLLM,
        lora={"maxLoras": 2, "maxCpuLoras": 3, "maxRank": 16},
        variants=[{**CARD, "tensorParallel": 2, "args": ["-x"]}],
        replicas=2,
    )
    assert (made.engine, made.model, made.name_served) == (EngineKind.VLLM, "org/m", "m")
    assert (made.tp, made.gpus) == (2, (0, 1, 2, 3))
    assert made.engine_args == (
        "--enable-lora", "--max-loras", "2", "--max-cpu-loras", "3", "--max-lora-rank", "16", "-x"
    )  # fmt: skip
    assert made.env == {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


def test_cards_that_the_settings_name_are_kept() -> None:
    base = FleetSettings(gpus=(4, 5, 6, 7))
    assert fleet(base, **VLLM, variants=[CARD], replicas=2).gpus == (4, 5, 6, 7)
    assert fleet(base, **VLLM).gpus == (), "a variant without cards runs on CPU"


def test_a_hub_id_may_be_given_as_a_uri() -> None:
    assert fleet(engine={"kind": "vllm"}, model={"source": "hf://org/m"}).model == "org/m"


def test_what_a_service_does_not_say_is_kept() -> None:
    base = FleetSettings(seed=7, starts_at_once=2, replicas=9, state_dir=Path("logs"))
    made = fleet(base)
    assert (made.seed, made.starts_at_once, made.state_dir) == (7, 2, Path("logs"))
    assert made.replicas == 1, "a service says how many, if only by default"


def test_variants_that_differ_in_role_only_are_one_fleet() -> None:
    made = fleet(
        replicas=3,
        variants=[
            {"name": "p", "role": "prefill", "minReplicas": 1, "maxReplicas": 1},
            {"name": "d", "role": "decode", "nodeSelector": {"zone": "a"}},
        ],
    )
    assert made.roles == (Role.PREFILL, Role.DECODE, Role.DECODE)


def test_a_variant_without_replicas_need_not_fit() -> None:
    made = fleet(replicas=1, variants=[{"name": "big", "maxReplicas": 0, "nodes": 8,
                                        "tensorParallel": 8}, {"name": "small"}])  # fmt: skip
    assert (made.nodes, made.replicas) == (1, 1)


def test_ray_gets_nodes_stages_cards_and_cores() -> None:
    variant = {**CARD, "nodes": 2, "tensorParallel": 4, "pipelineParallel": 2}
    made = fleet(RAY, **VLLM, variants=[{**variant, "resources": {"cpu": "1500m"}}])
    assert (made.kind, made.nodes, made.tp, made.pp) == (FleetKind.RAY, 2, 4, 2)
    assert (made.ray.cards_per_node, made.ray.cpus_per_node) == (4, 1.5)
    assert fleet(RAY, **VLLM).ray.cards_per_node == 0, "no accelerator: on CPU"
    assert fleet(RAY, variants=[{"name": "a", "resources": {"cpu": "4"}}]).ray.cpus_per_node == 4


@pytest.mark.parametrize(
    ("base", "fields", "said"),
    [
        (None, {"engine": {"kind": "sglang"}, "model": {"source": "m"}},
         "spec.engine.kind: simulated or vllm is needed outside Kubernetes"),
        (None, {"engine": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {}}}]}},
         "spec.engine.env[0].valueFrom: a value is needed outside Kubernetes"),
        (None, {**VLLM, "model": {"source": "s3://b/m"}},
         "spec.model.source: a folder or a hub id is needed; `headrace fetch` makes a folder"),
        (None, {"variants": [{"name": "a", "nodes": 2, "tensorParallel": 2}]},
         "spec.variants[0].nodes: 1 is needed in a local fleet; --fleet ray has more"),
        (None, {**VLLM, "variants": [{**CARD, "pipelineParallel": 2}]},
         "spec.variants[0].pipelineParallel: 1 is needed in a local fleet; --fleet ray has more"),
        (None, {**VLLM, "variants": [{"name": "a", "tensorParallel": 2}]},
         "spec.variants[0].accelerator: needed for tensorParallel above 1"),
        (None, {"replicas": 0}, "spec.replicas: at least 1 is needed where nothing scales"),
        (None, {"replicas": 257},
         "spec.replicas: input should be less than or equal to 256, in a local fleet"),
        (RAY, {"rollout": {"drainSeconds": 3_601}},
         "spec.rollout.drainSeconds: input should be less than or equal to 3600, in a ray fleet"),
        (RAY, {"variants": [{"name": "a", "resources": {"cpu": "4Gi"}}]},
         "spec.variants[0].resources.cpu: cores are needed, e.g. 4 or 500m"),
    ],
)  # fmt: skip
def test_what_a_fleet_cannot_honour_names_the_field(
    base: FleetSettings | None, fields: dict[str, Any], said: str
) -> None:
    assert problems(base, **fields) == [said]


def test_variants_of_several_cards_need_several_fleets() -> None:
    variants = [
        {"name": "a", "accelerator": {"name": "H100"}, "minReplicas": 1},
        {"name": "b", "accelerator": {"name": "L4"}, "minReplicas": 1, "tensorParallel": 2},
    ]
    for base in (None, RAY):
        kind = "local" if base is None else "ray"
        assert problems(base, variants=variants, replicas=2) == [
            f"spec.variants[1].{field}: the same as of spec.variants[0] is needed: a {kind} fleet "
            "has replicas of one shape"
            for field in ("accelerator", "tensorParallel")
        ]


def test_an_unknown_preset_is_named_with_those_there_are() -> None:
    [said] = problems(engine={"simulated": {"hardware": "B9000"}})
    assert said.startswith("spec.engine.simulated: ")
    assert "B9000" in said
    assert "H100" in said


def test_what_is_for_kubernetes_only_is_named() -> None:
    spec = spec_of(
        engine={"image": "x:1"},
        pod={"labels": {"a": "b"}},
        rollout={"maxSurge": 2, "drainSeconds": 5},
        variants=[
            {"name": "a"},
            {
                "name": "b",
                "accelerator": {"name": "H100"},
                "nodeSelector": {"zone": "a"},
                "tolerations": [{"operator": "Exists"}],
                "resources": {"cpu": "4", "memory": "8Gi"},
            },
        ],
    )
    common = (
        "spec.pod", "spec.engine.image", "spec.rollout.maxSurge",
        "spec.variants[1].nodeSelector", "spec.variants[1].tolerations",
        "spec.variants[1].accelerator.name",
    )  # fmt: skip
    assert ignored(spec, FleetKind.LOCAL) == (*common, "spec.variants[1].resources")
    assert ignored(spec, FleetKind.RAY) == (*common, "spec.variants[1].resources.memory")
    assert ignored(spec_of(pod={}, variants=[{"name": "a"}]), FleetKind.LOCAL) == ()


def test_the_example_is_taken_by_all_three_fleets_and_means_the_same() -> None:
    [document] = read_documents(list(yaml.safe_load_all(EXAMPLE.read_text()))).ours
    spec = document.spec
    assert isinstance(spec, ModelServiceSpec)
    local, ray = (fleet_settings(document.name, spec, base) for base in (None, RAY))
    assert ray == local.model_copy(update={"kind": FleetKind.RAY})
    assert ignored(spec, FleetKind.LOCAL) == ()
    owner = Owner(document.name, "default", "uid", 1)
    pod = template(owner, spec, spec.variants[0], Images("headrace:test", {}))
    engine = next(each for each in pod["spec"]["containers"] if each["name"] == "engine")
    assert json.loads(pod["annotations"]["headrace.dev/endpoint"])["simulated"] is True
    there, _ = settings_from(engine["args"])
    assert there.engine.served_names == (local.name_served,)
    for field in ("hardware", "model", "enable_lora", "max_loras", "max_cpu_loras"):
        assert getattr(there.engine, field) == getattr(local.simulated, field)
    assert there.engine.max_num_seqs == 128
