"""Nothing is left behind."""

from __future__ import annotations

import pytest

from tests.e2e.kube.counted import Counted
from tests.e2e.kube.stack import MODELS, NAMESPACE, RELEASE, Stack
from tests.kube.processes import CommandFailed

pytestmark = pytest.mark.kube

KINDS = (
    "pods,services,endpointslices,configmaps,secrets,serviceaccounts,deployments,replicasets,"
    "controllerrevisions,poddisruptionbudgets,leases,roles,rolebindings,networkpolicies"
)
OF_ITS_OWN = ("configmap/kube-root-ca.crt", "serviceaccount/default")


def test_a_deleted_service_leaves_nothing(stack: Stack) -> None:
    stack.kubectl("delete", "modelservices", "--all", limit_s=120)
    stack.until("all is gone", lambda: not _left(stack, MODELS), 120)


def test_an_uninstalled_chart_leaves_nothing(stack: Stack, counted: Counted) -> None:
    stack.helm("uninstall", RELEASE, "--wait", "--timeout", "120s")
    stack.until("all is gone", lambda: not _left(stack, NAMESPACE), 120)
    left = [*_left(stack, NAMESPACE), *_left(stack, MODELS), *_left_in_cluster(stack)]
    counted.figures["left_behind.objects"] = len(left)
    assert left == []


def _left(stack: Stack, namespace: str) -> list[str]:
    listed = stack.cluster.kubectl("-n", namespace, "get", KINDS, "-o", "name").split()
    return [name for name in listed if name not in OF_ITS_OWN]


def _left_in_cluster(stack: Stack) -> list[str]:
    listed = stack.cluster.kubectl(
        "get", "customresourcedefinitions,clusterroles,clusterrolebindings", "-o", "name"
    ).split()
    try:
        models = stack.cluster.kubectl("get", "modelservices", "-A", "-o", "name").split()
    except CommandFailed:
        models = []  # the kind itself is gone
    return [*models, *(name for name in listed if "headrace" in name)]
