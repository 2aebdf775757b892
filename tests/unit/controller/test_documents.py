"""Files of documents, as YAML has them."""

from __future__ import annotations

import pytest
import yaml

from controller.api.documents import MAX_VALUES, Documents, hold_objects, read_documents
from controller.api.lora_adapter import LoraAdapterSpec
from controller.api.model_service import ModelServiceSpec
from headrace.core.errors import ConfigError

SERVICE = """
apiVersion: headrace.dev/v1alpha1
kind: ModelService
metadata: {name: %s}
spec: %s
---
"""
ADAPTER = SERVICE.replace("ModelService", "LoraAdapter")
SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: key}\n---\n"


def read(text: str) -> Documents:
    return read_documents([value for value in yaml.safe_load_all(text) if value is not None])


def test_documents_are_read_in_their_order_and_those_of_others_are_named() -> None:
    found = read(SERVICE % ("m", "{}") + SECRET + ADAPTER % ("a", "{base: m, source: file:///a}"))
    assert [(each.kind, each.name, type(each.spec)) for each in found.ours] == [
        ("ModelService", "m", ModelServiceSpec),
        ("LoraAdapter", "a", LoraAdapterSpec),
    ]
    assert found.others == ("Secret key",)


def test_settings_are_told_from_objects() -> None:
    assert not hold_objects([{"fleet": {"replicas": 2}}])
    assert not hold_objects([])
    assert hold_objects(list(yaml.safe_load_all(SECRET)))


def test_the_problems_of_all_documents_come_at_once() -> None:
    text = SERVICE % ("m", "{replicas: -1, engin: {}}") + SECRET + ADAPTER % ("a", "{base: m}")
    with pytest.raises(ConfigError) as caught:
        read(text + "replicas: 2\n---\n- 1\n---\napiVersion: headrace.dev/v1alpha1\nkind: Model\n")
    assert str(caught.value).splitlines() == [
        "document 1: ModelService m: 2 problem(s)",
        "  spec.replicas: spec.replicas in body should be greater than or equal to 0",
        '  spec.engin: unknown field "spec.engin"',
        "document 3: LoraAdapter a: 1 problem(s)",
        "  spec.source: Required value",
        "document 4: apiVersion: Required value",
        "document 5: expected an object with apiVersion, found list",
        "document 6: Model: 1 problem(s)",
        "  kind: expected one of ModelService, LoraAdapter of headrace.dev/v1alpha1",
    ]


def test_an_object_that_a_later_one_would_overwrite_is_a_problem() -> None:
    with pytest.raises(ConfigError, match=r"ModelService m: metadata\.name: given 2 times"):
        read(SERVICE % ("m", "{}") + SERVICE % ("m", "{replicas: 2}"))
    assert len(read(SERVICE % ("m", "{}") + SERVICE % ("m, namespace: b", "{}")).ours) == 2


def test_a_file_of_other_peoples_objects_has_nothing_to_check() -> None:
    with pytest.raises(ConfigError, match=r"nothing of headrace\.dev/v1alpha1 is in it"):
        read(SECRET)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{engine: {simulated: {timeScale: .inf}}}", "spec.engine.simulated.timeScale: a finite"),
        ("{engine: {args: [!!binary aGk=]}}", "spec.engine.args[0]: bytes is nothing that JSON"),
        ("{engine: {args: !!set {a}}}", "spec.engine.args: set is nothing"),
        ("{pod: {labels: {null: x}}}", "a key must be text, None is not"),
        ("{replicas: 99999999999999999999999}", "spec.replicas in body must be of type integer"),
        ("&a [*a]", "too deep"),
        ("{engine: {args: %s}}" % ("[" * 80 + "]" * 80), "too deep"),
    ],
)
def test_what_yaml_has_and_json_has_not_is_refused(spec: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(SERVICE % ("m", spec))
    assert said in str(caught.value)


def test_aliases_that_multiply_are_given_up() -> None:
    doubled = ", ".join(f"l{i}: &v{i} [*v{i - 1}, *v{i - 1}]" for i in range(1, 40))
    spec = f"{{pod: {{volumes: &v0 [x, x], {doubled}}}}}"
    with pytest.raises(ConfigError, match=f"more than {MAX_VALUES} values"):
        read(SERVICE % ("m", spec))


def test_numbers_and_keys_become_what_kubectl_makes_of_them() -> None:
    spec = "{replicas: 2.0, variants: [{name: a, nodeSelector: {2: x, true: 'y'}}]}"
    [document] = read(SERVICE % ("m", spec)).ours
    assert isinstance(document.spec, ModelServiceSpec)
    assert document.spec.replicas == 2
    assert document.spec.variants[0].node_selector == {"2": "x", "true": "y"}


def test_a_date_is_text() -> None:
    [document] = read(SERVICE % ("m", "{engine: {args: [2026-11-24]}}")).ours
    assert isinstance(document.spec, ModelServiceSpec)
    assert document.spec.engine.args == ["2026-11-24"]


def test_a_document_with_its_defaults_is_the_same_document() -> None:
    spec = "{engine: {kind: vllm}, model: {source: org/m}, lora: {maxLoras: 2}}"
    found = read(SERVICE % ("m, labels: {a: b}", spec))
    [filled] = [each.filled() for each in found.ours]
    assert filled["metadata"] == {"name": "m", "labels": {"a": "b"}}
    assert filled["spec"]["lora"] == {
        "maxLoras": 2,
        "maxCpuLoras": 64,
        "maxRank": 64,
        "sources": [],
    }
    assert filled["spec"]["rollout"]["drainSeconds"] == 600
    assert read_documents([filled]).ours[0].spec == found.ours[0].spec


def test_variables_that_look_like_secrets_are_not_shown() -> None:
    spec = "{engine: {env: [{name: HF_TOKEN, value: hush}, {name: A, value: loud}]}}"
    [document] = read(SERVICE % ("m", spec)).ours
    assert "hush" not in str(document.filled())
    assert "loud" in str(document.filled())
