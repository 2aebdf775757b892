"""What must be true of whatever the chart makes of its values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import pytest
import yaml

from headrace.cli.config import KINDS, FrontSettings
from tests.support.chart import (
    CHART,
    CLUSTER_WIDE,
    NAMESPACE,
    Object,
    containers,
    of_kind,
    pods,
    rendered,
    selects,
    settings_file,
)

REDIS: Final = {"redis": {"url": "redis://elsewhere:6380/1"}}
KEY: Final = "0" * 64
POLICY: Final = {"networkPolicy": {"enabled": True}}

VALUES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "defaults": {},
        "production": yaml.safe_load((CHART / "examples/production.yaml").read_text()),
        "one-namespace": {"watchNamespace": "models"},
        "several-gateways": {**REDIS, "gateway": {"replicas": 3}},
        "no-gateway": {"gateway": {"replicas": 0}, "controller": {"replicas": 1}},
        "autoscaled": {**REDIS, "gateway": {"autoscaling": {"enabled": True}}},
        "trial-stores": {
            "trial": {
                "redis": {"enabled": True},
                "postgres": {"enabled": True, "password": "p@:'x"},
            }
        },
        "trial-behind-policy": {
            **POLICY,
            "trial": {"redis": {"enabled": True}, "postgres": {"enabled": True, "password": "p"}},
            "gateway": {"replicas": 2},
        },
        "redis-with-password": {"redis": {"url": "rediss://u:p@redis:6379/0"}},
        "engine-key": {"gateway": {"config": {"gateway": {"upstream": {"key": "sk"}}}}},
        "settings-in-a-secret": {"gateway": {"configFrom": {"secret": "ours"}, "replicas": 2}},
        "keys-given": {"gateway": {"keys": {"lines": [f"{KEY} alice", f"{'1' * 64} bob"]}}},
        "keys-kept-elsewhere": {"gateway": {"keys": {"existingSecret": "ours"}}},
        "policies": {**POLICY, **REDIS},
        "policies-in-one-namespace": {
            "watchNamespace": "models",
            "networkPolicy": {
                "enabled": True,
                "gatewayFrom": [{"podSelector": {}}],
                "gatewayEgress": [{"ports": [{"port": 9000}]}],
                "apiServerPorts": [6443],
            },
        },
        "monitored": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "monitored-in-one-namespace": {"watchNamespace": "models", "podMonitor": {"enabled": True}},
        "no-roles": {
            "rbac": {"create": False},
            "gateway": {"serviceAccount": {"create": False, "name": "g"}},
            "controller": {"serviceAccount": {"create": False, "name": "c"}},
        },
        "nothing-for-people": {"rbac": {"aggregate": False}},
        "accounts-with-names": {
            "gateway": {"serviceAccount": {"name": "g", "annotations": {"a": "b"}}},
            "controller": {"serviceAccount": {"name": "c"}},
        },
        "no-budgets": {
            "gateway": {"podDisruptionBudget": {"enabled": False}},
            "controller": {"podDisruptionBudget": {"enabled": False}},
        },
        "by-digest": {"image": {"repository": "r:5000/h", "digest": f"sha256:{KEY}"}},
        "placed": {
            "imagePullSecrets": [{"name": "pull"}],
            "gateway": {
                "nodeSelector": {"pool": "cpu"},
                "tolerations": [{"key": "cpu", "operator": "Exists"}],
                "affinity": {"podAntiAffinity": {}},
                "topologySpreadConstraints": [
                    {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}
                ],
                "priorityClassName": "high",
                "podLabels": {"team": "a"},
                "podAnnotations": {"b": "c"},
            },
            "controller": {"nodeSelector": {"pool": "cpu"}, "priorityClassName": "high"},
        },
        "tokenizers-mounted": {
            "gateway": {
                "extraEnv": [{"name": "HF_HOME", "value": "/models"}],
                "extraVolumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "m"}}],
                "extraVolumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
                "config": {"gateway": {"tokens": {"folders": {"m": "/models/m"}}}},
            }
        },
        "other-port-and-drain": {
            "gateway": {
                "config": {"gateway": {"port": 9000, "drain_s": 12.5}},
                "preStopSeconds": 9,
                "service": {"type": "NodePort", "port": 8000, "annotations": {"a": "b"}},
            }
        },
        "engines-that-others-run": {
            "gateway": {"config": {"endpoints": [{"url": "http://10.0.0.7:8000"}]}}
        },
        "long-names": {"fullnameOverride": "a" * 60},
        "renamed": {"nameOverride": "inference"},
        "no-definitions": {"crds": {"install": False}},
    }
)
EXTERNAL: Final = {"ours", "headrace-api-keys"}
"""Names of objects that these values say somebody else keeps."""

every = pytest.mark.parametrize("name", VALUES)


@cache
def chart(name: str) -> list[Object]:
    return rendered(VALUES[name])


@every
def test_every_container_has_bounds_probes_and_no_rights(name: str) -> None:
    for container in containers(chart(name)):
        assert set(container["resources"]) == {"requests", "limits"}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            (how,) = container[probe].keys() & {"httpGet", "tcpSocket"}
            assert container[probe][how]["port"] in {p["name"] for p in container["ports"]}


@every
def test_every_pod_is_as_restricted_as_the_restricted_standard_asks(name: str) -> None:
    for _, pod in pods(chart(name)):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] >= 10_000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
        assert not any("hostPath" in volume for volume in pod["spec"]["volumes"])
        assert isinstance(pod["spec"]["automountServiceAccountToken"], bool)


@every
def test_every_image_is_pinned(name: str) -> None:
    for container in containers(chart(name)):
        last = container["image"].rpartition("/")[2]
        assert ("@sha256:" in last) or (":" in last and not last.endswith((":", ":latest")))


@every
def test_every_temporary_folder_has_a_bound_and_every_mount_its_volume(name: str) -> None:
    for _, pod in pods(chart(name)):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert len(volumes) == len(pod["spec"]["volumes"])
        mounted = {m["name"] for c in pod["spec"]["containers"] for m in c["volumeMounts"]}
        assert mounted == volumes.keys()
        assert all(v["emptyDir"]["sizeLimit"] for v in volumes.values() if "emptyDir" in v)


@every
def test_what_pods_read_is_there(name: str) -> None:
    made = chart(name)
    there = {
        (each["kind"], each["metadata"]["name"]) for each in of_kind(made, "ConfigMap", "Secret")
    }
    for _, pod in pods(made):
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "secret" in volume and volume["secret"]["secretName"] not in EXTERNAL:
                assert ("Secret", volume["secret"]["secretName"]) in there


@every
def test_selectors_match_the_pods_they_are_for_and_no_others(name: str) -> None:
    made = chart(name)
    labels = {where: pod["metadata"]["labels"] for where, pod in pods(made)}
    for each in of_kind(made, "Deployment"):
        selector = each["spec"]["selector"]["matchLabels"]
        where = each["metadata"]["name"]
        assert [w for w, found in labels.items() if selects(selector, found)] == [where]
        assert not {"app.kubernetes.io/version", "helm.sh/chart"} & selector.keys()
    for each in of_kind(made, "Service"):
        matched = [w for w, found in labels.items() if selects(each["spec"]["selector"], found)]
        assert matched == [each["metadata"]["name"]]
    for each in of_kind(made, "PodDisruptionBudget", "PodMonitor", "NetworkPolicy"):
        spec = each["spec"]
        selector = (spec.get("selector") or spec.get("podSelector")).get("matchLabels")
        if selector is None:
            assert each["metadata"]["name"].endswith("-engines")
            continue
        matched = [w for w, found in labels.items() if selects(selector, found)]
        assert matched == [each["metadata"]["name"]]


@every
def test_services_and_monitors_lead_to_ports_that_pods_have(name: str) -> None:
    made = chart(name)
    ports = {
        w: {p["name"] for c in pod["spec"]["containers"] for p in c["ports"]}
        for w, pod in pods(made)
    }
    for each in of_kind(made, "Service"):
        assert {p["targetPort"] for p in each["spec"]["ports"]} <= ports[each["metadata"]["name"]]
    for each in of_kind(made, "PodMonitor"):
        asked = {p["port"] for p in each["spec"]["podMetricsEndpoints"]}
        assert asked <= ports.get(each["metadata"]["name"], {"runtime"})


@every
def test_names_are_unique_and_short_and_in_their_namespace(name: str) -> None:
    made = chart(name)
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in made]
    assert len(keys) == len(set(keys))
    assert all(len(key[2]) <= 63 for key in keys)
    watched = VALUES[name].get("watchNamespace", NAMESPACE)
    for kind, namespace, _ in keys:
        if kind in CLUSTER_WIDE:
            assert namespace is None
        else:
            assert namespace in {NAMESPACE, watched}


@every
def test_everything_carries_the_recommended_labels(name: str) -> None:
    for each in chart(name):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "headrace"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert all(isinstance(value, str) for value in labels.values())


@every
def test_bindings_bind_roles_and_accounts_that_exist(name: str) -> None:
    made = chart(name)
    there = {(o["kind"], o["metadata"]["name"]) for o in made}
    accounts = {pod["spec"].get("serviceAccountName") for _, pod in pods(made)} - {None}
    for binding in of_kind(made, "RoleBinding", "ClusterRoleBinding"):
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in there
        for subject in binding["subjects"]:
            assert ("ServiceAccount", subject["name"]) in there
            assert subject["namespace"] == NAMESPACE
            assert subject["name"] in accounts


@every
def test_only_gateway_and_controller_have_a_token(name: str) -> None:
    holders = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]
        for _, pod in pods(chart(name))
        if pod["spec"]["automountServiceAccountToken"]
    }
    assert holders == {"gateway", "controller"}
    for account in of_kind(chart(name), "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@every
def test_a_gateway_has_time_for_its_streams(name: str) -> None:
    made = chart(name)
    (gateway,) = [pod for where, pod in pods(made) if where.endswith("-gateway")]
    (container,) = gateway["spec"]["containers"]
    wait_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = 300
    if not VALUES[name].get("gateway", {}).get("configFrom"):
        drain_s = settings_file(made, "gateway", where(made))["gateway"]["drain_s"]
    assert gateway["spec"]["terminationGracePeriodSeconds"] >= wait_s + drain_s + 5


def where(made: list[Object]) -> str:
    """Return what names of the chart's objects begin with."""
    (name,) = [w for w, _ in pods(made) if w.endswith("-gateway")]
    return name.removesuffix("-gateway")


@every
@pytest.mark.parametrize("component", sorted({"gateway", "controller"} & KINDS.keys()))
def test_the_processes_accept_their_settings(name: str, component: str) -> None:
    made = chart(name)
    if component == "gateway" and "configFrom" in VALUES[name].get("gateway", {}):
        assert not [
            o for o in of_kind(made, "ConfigMap") if o["metadata"]["name"].endswith("-gateway")
        ]
        return
    read = settings_file(made, component, where(made))
    if "discovery" not in FrontSettings.model_fields:
        read.pop("discovery", None)
    KINDS[component].model_validate(read)
