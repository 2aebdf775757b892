"""What the chart takes, what it refuses, and what it makes of it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from controller.api.model_service import ModelServiceSpec
from headrace.cli.config import FrontSettings
from tests.support.chart import (
    CHART,
    NAMESPACE,
    ROOT,
    SCRIPT,
    Object,
    helm_run,
    objects,
    of_kind,
    one,
    pods,
    refused,
    rendered,
    settings_file,
)

Schema = dict[str, Any]

SCHEMA: Final[Schema] = json.loads(SCRIPT["schema"]())

OPEN: Final = {
    *("global", "definitions/Words", "definitions/Quantities", "definitions/Kubernetes"),
    *(
        f"definitions/Affinity/{kind}"
        for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")
    ),
    *("definitions/EndpointSettings/labels", "definitions/TokenSettings/folders"),
}
"""Objects with keys of somebody else's choice: labels, names, and what Kubernetes defines."""


def test_the_schema_is_what_the_settings_say() -> None:
    assert (CHART / "values.schema.json").read_text() == SCRIPT["schema"](), (
        "run: .venv/bin/python scripts/write-chart"
    )


def test_the_manifests_are_the_chart_with_its_default_values() -> None:
    helm = SCRIPT["find_helm"]()
    if helm is None:
        pytest.skip("helm is not installed: tests/kube/install-tools builds it")
    for path, text in SCRIPT["manifests"](helm).items():
        assert path.read_text() == text, "run: .venv/bin/python scripts/write-chart"


def test_the_manifests_hold_each_object_once_and_no_definition_beside_others() -> None:
    made = objects((ROOT / "deploy/headrace.yaml").read_text())
    assert len({(o["kind"], o["metadata"]["name"]) for o in made}) == len(made)
    assert not of_kind(made, "CustomResourceDefinition")
    assert [o["metadata"]["name"] for o in of_kind(made, "Deployment")] == [
        "headrace-controller",
        "headrace-gateway",
    ]


def open_objects(node: object, path: tuple[str, ...] = ()) -> set[str]:
    """Return where the schema has objects that take any key."""
    found: set[str] = set()
    if isinstance(node, dict):
        if node.get("type") == "object" and node.get("additionalProperties") is not False:
            found.add("/".join(path))
        for key, below in node.items():
            step = () if key in ("properties", "items", "anyOf") else (key,)
            found |= open_objects(below, path + step)
    elif isinstance(node, list):
        for below in node:
            found |= open_objects(below, path)
    return found


def test_every_object_is_closed_but_those_with_keys_of_their_own() -> None:
    assert open_objects(SCHEMA) <= OPEN


def example(node: Schema) -> object:
    """Return a value for a schema with a key that nobody knows in every object that is closed."""
    if "$ref" in node:
        return example(SCHEMA["definitions"][node["$ref"].rpartition("/")[2]])
    if "anyOf" in node:
        return example(next(kind for kind in node["anyOf"] if kind.get("type") != "null"))
    if node.get("type") == "array":
        return [example(node["items"])] if isinstance(node.get("items"), dict) else []
    if node.get("type") != "object":
        return 0
    known = {key: example(below) for key, below in node.get("properties", {}).items()}
    return {**known, "nobody-knows": 1} if node.get("additionalProperties") is False else known


def closed(node: object, path: str = "") -> set[str]:
    """Return where an example has its unknown keys."""
    if isinstance(node, dict):
        here = {path} if "nobody-knows" in node else set()
        return here.union(*(closed(below, f"{path}/{key}") for key, below in node.items()))
    if isinstance(node, list):
        return set().union(*(closed(below, f"{path}/{i}") for i, below in enumerate(node)))
    return set()


def test_an_unknown_key_is_refused_at_every_level() -> None:
    values = example(SCHEMA)
    assert isinstance(values, dict)
    told = refused(values)
    paths = closed(values)
    assert len(paths) > 40
    for path in sorted(paths):
        assert f"at '{path}': additional properties 'nobody-knows' not allowed" in told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"gateway": {"replicas": 2}}, "more than one replica needs a Redis"),
        ({"gateway": {"autoscaling": {"enabled": True}}}, "more than one replica needs a Redis"),
        (
            {"redis": {"url": "redis://r"}, "trial": {"redis": {"enabled": True}}},
            "redis.url names one already",
        ),
        ({"trial": {"postgres": {"enabled": True}}}, "trial.postgres.password: required"),
        (
            {"gateway": {"keys": {"existingSecret": "s", "lines": ["0" * 64 + " a"]}}},
            "existingSecret or lines, not both",
        ),
        (
            {"gateway": {"keys": {"existingSecret": "s"}, "configFrom": {"secret": "t"}}},
            "names its keys_file itself",
        ),
        (
            {
                "redis": {"url": "redis://r"},
                "gateway": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
            },
            "maxReplicas is below minReplicas",
        ),
        (
            {"gateway": {"serviceAccount": {"create": False}}},
            "gateway.serviceAccount.name: name an account",
        ),
        ({"gateway": {"keys": {"lines": ["sk-plain alice"]}}}, "/gateway/keys/lines/0"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"trial": {"redis": {"image": "redis"}}}, "/trial/redis/image"),
        ({"trial": {"redis": {"image": "redis:latest"}}}, "/trial/redis/image"),
        ({"gateway": {"config": {"gateway": {"port": 99_999}}}}, "/gateway/config/gateway/port"),
        ({"gateway": {"config": {"log": {"level": "loud"}}}}, "/gateway/config/log/level"),
        ({"watchNamespace": "a,b"}, "/watchNamespace"),
        ({"redis": {"url": "localhost"}}, "/redis/url"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_with_a_reason(
    values: Mapping[str, object], told: str
) -> None:
    assert told in refused(values)


def test_a_kubernetes_that_is_too_old_is_refused() -> None:
    done = helm_run({}, "--kube-version=1.29.0")
    assert done.returncode != 0
    assert "1.30" in done.stderr


def checksums(values: Mapping[str, object]) -> dict[str, str]:
    made = rendered(values)
    return {where: pod["metadata"]["annotations"]["checksum/config"] for where, pod in pods(made)}


def test_a_changed_setting_restarts_the_pods_that_read_it_and_no_others() -> None:
    before = checksums({})
    same = checksums({"podMonitor": {"enabled": True}, "gateway": {"podLabels": {"a": "b"}}})
    after = checksums({"gateway": {"config": {"router": {"seed": 7}}}})
    assert same == before
    assert after["headrace-controller"] == before["headrace-controller"]
    assert after["headrace-gateway"] != before["headrace-gateway"]


def test_a_changed_key_restarts_the_gateway() -> None:
    keys = [checksums({"gateway": {"keys": {"lines": [f"{d * 64} a"]}}}) for d in "01"]
    assert keys[0]["headrace-gateway"] != keys[1]["headrace-gateway"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({}, "ConfigMap"),
        ({"redis": {"url": "redis://host:6379/0"}}, "ConfigMap"),
        ({"redis": {"url": "redis://:hunter2@host:6379/0"}}, "Secret"),
        (
            {"gateway": {"config": {"gateway": {"sharing": {"redis_url": "redis://:hunter2@h"}}}}},
            "Secret",
        ),
        ({"gateway": {"config": {"gateway": {"upstream": {"key": "hunter2"}}}}}, "Secret"),
    ],
)
def test_settings_that_hold_a_secret_are_one(values: Mapping[str, object], kind: str) -> None:
    made = rendered(values)
    one(made, kind, "headrace-gateway")
    held = [str(each) for each in of_kind(made, "ConfigMap", "Deployment")]
    assert not any("hunter2" in text for text in held)


def gateway_settings(values: Mapping[str, object]) -> Object:
    return settings_file(rendered(values), "gateway")


def test_what_the_chart_fills_in_gives_way_to_what_is_set() -> None:
    assert gateway_settings({"redis": {"url": "redis://a"}})["gateway"]["sharing"] == {
        "redis_url": "redis://a"
    }
    both = {
        "redis": {"url": "redis://a"},
        "gateway": {"config": {"gateway": {"host": "::", "sharing": {"redis_url": "redis://b"}}}},
    }
    read = gateway_settings(both)["gateway"]
    assert (read["host"], read["sharing"]["redis_url"]) == ("::", "redis://b")


def test_the_gateway_watches_the_namespace_it_may_watch() -> None:
    assert gateway_settings({})["discovery"] == {"kind": "kubernetes"}
    assert gateway_settings({"watchNamespace": "models"})["discovery"] == {
        "kind": "kubernetes",
        "namespace": "models",
    }
    named = {"gateway": {"config": {"endpoints": [{"url": "http://10.0.0.7:8000"}]}}}
    assert "discovery" not in gateway_settings(named)


def test_the_controller_is_told_its_namespace_and_the_image_of_sidecars() -> None:
    image = {"tag": "9.9", "pullPolicy": "Never"}
    made = rendered({"watchNamespace": "models", "image": image})
    assert settings_file(made, "controller") == {
        "image": "headrace:9.9",
        "lease": {"name": "headrace-controller"},
        "namespace": "models",
        "pull_policy": "Never",
    }


def test_large_numbers_reach_the_settings_as_they_are() -> None:
    read = gateway_settings({"gateway": {"config": {"router": {"index_blocks": 123_456_789}}}})
    settings = FrontSettings.model_validate({"router": read["router"]})
    assert settings.router.index_blocks == 123_456_789


def test_an_autoscaled_gateway_leaves_its_replicas_to_the_autoscaler() -> None:
    values: Mapping[str, object] = {
        "redis": {"url": "redis://a"},
        "gateway": {"autoscaling": {"enabled": True}},
    }
    made = rendered(values)
    assert "replicas" not in one(made, "Deployment", "headrace-gateway")["spec"]
    spec = one(made, "HorizontalPodAutoscaler", "headrace-gateway")["spec"]
    assert spec["scaleTargetRef"]["name"] == "headrace-gateway"
    assert spec["metrics"][0]["pods"]["metric"]["name"] in metric_names()
    assert one(rendered({}), "Deployment", "headrace-gateway")["spec"]["replicas"] == 1


def metric_names() -> set[str]:
    from headrace.service.telemetry import METRICS

    return {spec.name for spec in METRICS}


def test_two_releases_meet_nowhere_outside_their_namespace() -> None:
    wide = ("ClusterRole", "ClusterRoleBinding")
    names = [
        {each["metadata"]["name"] for each in of_kind(rendered({}, release), *wide)}
        for release in ("headrace", "headrace-two")
    ]
    assert not names[0] & names[1]
    assert all(name.startswith(f"{NAMESPACE}-") for name in names[0] | names[1])


def test_definitions_stay_unless_they_are_told_to_go() -> None:
    for keep in (True, False):
        made = of_kind(rendered({"crds": {"keep": keep}}), "CustomResourceDefinition")
        assert made
        for each in made:
            policy = each["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            assert policy == ("keep" if keep else None)
    assert not of_kind(rendered({"crds": {"install": False}}), "CustomResourceDefinition")


def test_definitions_are_those_that_the_controller_made() -> None:
    made = rendered({})
    for path in sorted((CHART / "files/crds").glob("*.yaml")):
        (given,) = objects(path.read_text())
        assert one(made, given["kind"], given["metadata"]["name"])["spec"] == given["spec"]


@pytest.mark.parametrize("keys", [{}, {"existingSecret": "ours"}])
def test_the_notes_have_a_request_to_copy(tmp_path: Path, keys: dict[str, str]) -> None:
    chart = shutil.copytree(CHART, tmp_path / "headrace")
    shown = '{{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}\n'
    (chart / "templates/shown.yaml").write_text(f"apiVersion: v1\nkind: Notes\nnotes: {shown}")
    done = helm_run({"gateway": {"keys": keys}}, "--show-only=templates/shown.yaml", chart=chart)
    assert done.returncode == 0, done.stderr
    (made,) = objects(done.stdout)
    assert "port-forward service/headrace-gateway 8080:80" in made["notes"]
    request = next(part for part in made["notes"].split("\n\n") if "chat/completions" in part)
    words = shlex.split(request)
    assert words[0] == "curl"
    assert json.loads(words[words.index("-d") + 1])["stream"] is True
    assert ("Authorization: Bearer $KEY" in words) == bool(keys)
    assert ("No API keys are set" in made["notes"]) != bool(keys)


def test_the_page_names_no_value_that_is_not_there() -> None:
    page = (ROOT / "docs/operate/kubernetes.md").read_text()
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    named = re.findall(r"`((?:gateway|controller|trial|crds|rbac|networkPolicy)\.[\w.]+)", page)
    assert len(named) > 10
    for path in named:
        here: Any = defaults
        for part in path.partition(".config.")[0].split("."):
            assert part in here, path
            here = here[part]


def test_the_model_on_the_page_is_one() -> None:
    page = (ROOT / "docs/operate/kubernetes.md").read_text()
    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    read = ModelServiceSpec.model_validate_json(json.dumps(example["spec"]))
    assert read.replicas == 2


@pytest.mark.parametrize("arguments", [[], ["--values", str(CHART / "examples/production.yaml")]])
def test_helm_finds_nothing_to_say_against_the_chart(arguments: list[str]) -> None:
    helm = SCRIPT["find_helm"]()
    if helm is None:
        pytest.skip("helm is not installed: tests/kube/install-tools builds it")
    kubernetes = f"--kube-version={SCRIPT['KUBERNETES']}"
    done = subprocess.run(
        [helm, "lint", "--strict", CHART, kubernetes, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout
