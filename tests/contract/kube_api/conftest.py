"""One API server: the fake one that other tests use, and a real one where there is one."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from headrace.service.kube.connect import Api, open_api
from headrace.service.kube.resource import NAMESPACES, Resource
from headrace.service.kube.writes import Writes
from tests.kube.given import AnyCluster, some_cluster
from tests.support.fake_kube import FakeKube

WIDGETS = Resource("test.headrace.dev", "v1", "widgets", "Widget")

_CONDITIONS = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"type": "string"}, "status": {"type": "string"}},
    },
}
_FREE = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{WIDGETS.plural}.{WIDGETS.group}"},
    "spec": {
        "group": WIDGETS.group,
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": _FREE,
                            "status": {**_FREE, "properties": {"conditions": _CONDITIONS}},
                        },
                    }
                },
            }
        ],
    },
}


@dataclass(frozen=True)
class Place:
    """A namespace of its own on some API server."""

    api: Api
    writes: Writes
    others: Writes
    namespace: str


@pytest.fixture(scope="module", params=["fake", pytest.param("real", marks=pytest.mark.kube)])
def server(request: pytest.FixtureRequest) -> Iterator[AnyCluster | None]:
    if request.param == "fake":
        yield None
        return
    with some_cluster(request, nodes=0) as cluster:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(DEFINITION))
        cluster.kubectl("wait", "--for=condition=Established", "crd/widgets.test.headrace.dev")
        yield cluster
        cluster.kubectl("delete", "crd/widgets.test.headrace.dev")


@pytest.fixture
async def place(server: AnyCluster | None) -> AsyncIterator[Place]:
    namespace = f"headrace-{uuid.uuid4().hex[:8]}"
    if server is None:
        async with FakeKube() as kube, kube.client() as api:
            kube.know(WIDGETS)
            yield Place(api, Writes(api), Writes(api, field_manager="others"), namespace)
        return
    async with await open_api(server.kubeconfig) as api:
        writes = Writes(api)
        await writes.create(NAMESPACES, {"metadata": {"name": namespace}})
        yield Place(api, writes, Writes(api, field_manager="others"), namespace)
        await writes.delete(NAMESPACES, "", namespace)
