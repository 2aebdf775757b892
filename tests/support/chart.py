"""The chart as helm renders it, read back."""

from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Hashable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm/headrace"
SCRIPT: Final[Mapping[str, Any]] = runpy.run_path(str(ROOT / "scripts/write-chart"))
NAMESPACE: Final = "there"
CLUSTER_WIDE: Final = {
    *("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"),
}

Object = dict[str, Any]


class _Strict(yaml.CSafeLoader):
    """Refuses a key written twice, as the API server does and plain YAML does not."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key twice in {keys}"
        return super().construct_mapping(node, deep)


def helm_run(
    values: Mapping[str, object],
    *arguments: str,
    release: str = "headrace",
    chart: Path = CHART,
) -> subprocess.CompletedProcess[str]:
    """Run ``helm template``; skips the test where there is no helm."""
    helm = SCRIPT["find_helm"]()
    if helm is None:
        pytest.skip("helm is not installed: tests/kube/install-tools builds it")
    return subprocess.run(
        [
            *(helm, "template", release, chart, f"--namespace={NAMESPACE}", "--values=-"),
            *(f"--kube-version={SCRIPT['KUBERNETES']}", *arguments),
        ],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def objects(text: str) -> list[Object]:
    """Return the objects in manifests."""
    return [part for part in yaml.load_all(text, Loader=_Strict) if part is not None]


def rendered(values: Mapping[str, object], release: str = "headrace") -> list[Object]:
    """Return the objects that the chart makes of these values."""
    return objects(_rendered(json.dumps(values), release))


@cache
def _rendered(values: str, release: str) -> str:
    done = helm_run(json.loads(values), release=release)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(values: Mapping[str, object]) -> str:
    """Return what helm says of values that the chart refuses."""
    done = helm_run(values)
    assert done.returncode != 0
    return done.stderr


def of_kind(made: list[Object], *kinds: str) -> list[Object]:
    """Return the objects of some kinds."""
    return [one for one in made if one["kind"] in kinds]


def one(made: list[Object], kind: str, name: str) -> Object:
    """Return the one object of this kind and name."""
    (found,) = [each for each in of_kind(made, kind) if each["metadata"]["name"] == name]
    return found


def pods(made: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield the name and the pod template of everything that makes pods."""
    for each in of_kind(made, "Deployment", "StatefulSet", "Job", "DaemonSet"):
        yield each["metadata"]["name"], each["spec"]["template"]


def containers(made: list[Object]) -> Iterator[Object]:
    """Yield every container."""
    for _, pod in pods(made):
        yield from pod["spec"].get("initContainers", [])
        yield from pod["spec"]["containers"]


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a selector of labels matches."""
    return selector.items() <= labels.items()


def settings_file(made: list[Object], component: str, release: str = "headrace") -> Object:
    """Return what a process of the chart reads as its settings."""
    (held,) = [
        each
        for each in of_kind(made, "ConfigMap", "Secret")
        if each["metadata"]["name"] == f"{release}-{component}"
    ]
    text = {**held.get("data", {}), **held.get("stringData", {})}[f"{component}.yaml"]
    read: Object = yaml.load(text, Loader=_Strict)
    return read
