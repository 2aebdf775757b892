"""What specs may say, here and in the CRDs that are made of the same models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.api.crd import crd_files, crds
from controller.api.kinds import KINDS
from controller.api.model_service import Engine, ModelServiceSpec
from controller.api.problems import BadSpec, parse, read
from tests.support.bad_specs import BAD_SPECS, GOOD_SPECS
from tests.support.spec_documents import BadSpec as Row
from tests.support.spec_documents import adapter, said_by_server, service

ROOT = Path(__file__).resolve().parents[3]


def problems_of(document: dict[str, Any]) -> list[str]:
    with pytest.raises(BadSpec) as caught:
        read(document["kind"], document)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("bad", BAD_SPECS, ids=lambda bad: bad.name)
def test_what_is_wrong_is_said_as_the_api_server_says_it(bad: Row) -> None:
    with pytest.raises(BadSpec) as caught:
        read(bad.document["kind"], bad.document)
    found = [(problem.field, problem.expected) for problem in caught.value.problems]
    assert len(found) == len(set(found))
    assert set(found) == bad.problems
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)


@pytest.mark.parametrize("name", GOOD_SPECS)
def test_what_the_api_server_takes_is_read(name: str) -> None:
    document = GOOD_SPECS[name]
    assert isinstance(read(document["kind"], document), KINDS[document["kind"]].spec)


def test_all_problems_come_at_once_and_in_the_order_of_the_fields() -> None:
    assert problems_of(
        service({"replicas": -1, "engine": {"kind": "tgi", "x": 1}, "variants": [{"nodes": 0}]})
        | {"labels": {}}
    ) == [
        'labels: unknown field "labels"',
        'spec.engine.kind: supported values: "simulated", "vllm", "sglang"',
        'spec.engine.x: unknown field "spec.engine.x"',
        "spec.replicas: spec.replicas in body should be greater than or equal to 0",
        "spec.variants[0].name: Required value",
        "spec.variants[0].nodes: spec.variants[0].nodes in body should be greater than or equal "
        "to 1",
    ]


@pytest.mark.parametrize(
    ("kind", "version"),
    [("Deployment", "apps/v1"), ("ModelService", "headrace.dev/v1"), ("ModelService", None)],
)
def test_a_kind_or_version_that_is_not_ours_is_refused(kind: str, version: str | None) -> None:
    with pytest.raises(BadSpec, match="expected one of ModelService, LoraAdapter of headrace"):
        read(kind, {"apiVersion": version, "kind": kind, "metadata": {"name": "m"}, "spec": {}})


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ("m", 'metadata: metadata in body must be of type object: "string"'),
        ({"name": 5}, 'metadata.name: metadata.name in body must be of type string: "integer"'),
        (
            {"name": "m", "labels": {"version": 1}},
            "metadata.labels.version: metadata.labels.version in body must be of type string: "
            '"integer"',
        ),
        (
            {"name": "m", "annotations": ["a"]},
            'metadata.annotations: metadata.annotations in body must be of type object: "array"',
        ),
    ],
)
def test_metadata_that_no_server_could_decode_is_said(metadata: object, problem: str) -> None:
    assert problems_of({**service({}), "metadata": metadata}) == [problem]


def test_a_spec_alone_can_be_judged_too() -> None:
    problems, spec = parse(ModelServiceSpec, {"rollout": {"maxSurge": 0}})
    assert [problem.field for problem in problems] == ["spec.rollout"]
    assert spec is not None, "it could be read, so it is there to be looked at"
    problems, spec = parse(ModelServiceSpec, {"engine": {"kind": "sglang"}, "replicas": -1})
    assert [problem.field for problem in problems] == ["spec.replicas", "spec"]
    assert spec is None


def test_what_is_not_said_has_the_defaults() -> None:
    spec = read("ModelService", service({"lora": {}, "variants": [{"name": "a"}]}))
    assert isinstance(spec, ModelServiceSpec)
    assert (spec.engine.kind, spec.replicas) == (Engine.SIMULATED, 1)
    assert spec.variants[0].tensor_parallel == 1
    assert spec.lora is not None
    assert spec.lora.max_loras == 8


def test_nulls_in_lists_stay_and_in_objects_are_absent() -> None:
    assert problems_of(service({"engine": {"args": ["a", None]}, "replicas": None})) == [
        'spec.engine.args[1]: spec.engine.args[1] in body must be of type string: "null"'
    ]


def test_the_crd_files_are_what_the_models_say() -> None:
    folder = ROOT / "helm" / "headrace" / "files" / "crds"
    assert {path.name: path.read_text() for path in folder.glob("*.yaml")} == crd_files(), (
        "make docs"
    )


def test_the_plain_manifests_hold_the_same_crds() -> None:
    documents = yaml.safe_load_all((ROOT / "deploy" / "crds.yaml").read_text())
    schemas = {crd["metadata"]["name"]: crd["spec"] for crd in documents if crd}
    assert schemas == {name: crd["spec"] for name, crd in crds().items()}, "make docs"


def test_names_are_limited_at_the_root_of_each_crd() -> None:
    rules = {
        crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
            "x-kubernetes-validations"
        ]
        for crd in crds().values()
    }
    assert [rule["rule"] for rule in rules["ModelService"]] == ["size(self.metadata.name) <= 40"]
    assert [rule["rule"] for rule in rules["LoraAdapter"]] == ["size(self.metadata.name) <= 63"]


def test_every_field_of_a_spec_says_what_it_means() -> None:
    def undescribed(schema: dict[str, Any], where: str) -> list[str]:
        found = []
        for name, below in schema.get("properties", {}).items():
            inner = below["items"] if below.get("type") == "array" else below
            found += [] if "description" in below else [f"{where}.{name}"]
            found += undescribed(inner, f"{where}.{name}")
        return found

    for crd in crds().values():
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert undescribed(schema["properties"]["spec"], "spec") == []


def test_a_status_is_read_into_what_the_table_has() -> None:
    causes = [
        {"field": "spec.x", "message": 'Invalid value: "a: b\\"": must: do'},
        {"field": "spec.y", "message": 'Unsupported value: 1: supported values: "1"'},
        {"field": "spec.z", "message": "Too many: 3: must have at most 2 items"},
        {"field": "spec.l", "message": "Too long: may not be more than 2 bytes"},
        {"field": "spec.r", "message": "Required value"},
        {"field": ".spec.replicas", "message": "Invalid value: -1: should be non-negative"},
        {
            "field": "<nil>",
            "message": "Invalid value: null: some validation rules were not checked",
        },
    ]
    assert said_by_server({"code": 422, "details": {"causes": causes}}) == {
        ("spec.x", "must: do"),
        ("spec.y", 'supported values: "1"'),
        ("spec.z", "must have at most 2 items"),
        ("spec.l", "may not be more than 2 bytes"),
        ("spec.r", "Required value"),
    }
    assert said_by_server({"code": 400, "message": 'unknown field "a", unknown field "b.c"'}) == {
        ("a", 'unknown field "a"'),
        ("b.c", 'unknown field "b.c"'),
    }


def test_a_document_without_a_name_is_named_by_its_kind() -> None:
    document = {**adapter({}), "metadata": {}}
    with pytest.raises(BadSpec, match=r"^LoraAdapter: 3 problem\(s\)"):
        read("LoraAdapter", document)
