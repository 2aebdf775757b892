from __future__ import annotations

from random import Random

import pytest

from headrace.service.kube.backoff import Backoff
from headrace.service.kube.resource import MODEL_SERVICES, NAMESPACES, PODS, key_of, version_of


def test_paths_are_those_of_the_api() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("ns", "a", "status") == "/api/v1/namespaces/ns/pods/a/status"
    assert NAMESPACES.path("", "ns") == "/api/v1/namespaces/ns"
    wanted = "/apis/headrace.dev/v1alpha1/namespaces/ns/modelservices"
    assert MODEL_SERVICES.path("ns") == wanted
    assert MODEL_SERVICES.api_version == "headrace.dev/v1alpha1"
    assert (PODS.title, MODEL_SERVICES.title) == ("pods", "modelservices.headrace.dev")


def test_an_object_has_a_key_and_a_version() -> None:
    assert key_of({"metadata": {"name": "n"}}) == ("", "n")
    obj = {"metadata": {"name": "n", "namespace": "ns", "resourceVersion": "7"}}
    assert (key_of(obj), version_of(obj)) == (("ns", "n"), "7")
    assert version_of({"metadata": {}}) == ""


@pytest.mark.parametrize("failures", [1, 2, 3, 10, 10_000])
def test_waits_double_up_to_a_limit_and_are_spread(failures: int) -> None:
    rng = Random(0)
    full_s = min(10.0, 0.2 * 2.0 ** min(failures - 1, 100))
    waits = [Backoff(0.2, 10.0).wait_s(failures, rng) for _ in range(200)]
    assert all(full_s / 2 <= wait_s <= full_s for wait_s in waits)
    assert max(waits) - min(waits) > full_s / 4
