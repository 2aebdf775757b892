"""Bad specs are refused in the same words by the API server and by ``headrace config check``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from headrace.service.kube.api import Api, Call
from headrace.service.kube.connect import open_api
from headrace.service.kube.errors import KubeError
from headrace.service.kube.resource import LORA_ADAPTERS, MODEL_SERVICES
from tests.e2e.kube.counted import Counted
from tests.e2e.kube.stack import MODELS, Stack
from tests.kube.processes import CommandFailed
from tests.support.bad_specs import BAD_SPECS, GOOD_SPECS
from tests.support.spec_documents import said_by_server

pytestmark = pytest.mark.kube


def test_bad_specs_are_worded_alike(stack: Stack, counted: Counted) -> None:
    said = asyncio.run(_answers(stack.cluster.kubeconfig, [bad.document for bad in BAD_SPECS]))
    different = {
        bad.name: (bad.problems, answer)
        for bad, answer in zip(BAD_SPECS, said, strict=True)
        if answer != bad.problems
    }
    counted.figures["bad_specs.documents"] = len(BAD_SPECS)
    counted.figures["bad_specs.worded_alike_ratio"] = 1 - len(different) / len(BAD_SPECS)
    assert different == {}


def test_good_specs_are_taken(stack: Stack) -> None:
    said = asyncio.run(_answers(stack.cluster.kubeconfig, list(GOOD_SPECS.values())))
    assert dict(zip(GOOD_SPECS, said, strict=True)) == dict.fromkeys(GOOD_SPECS, frozenset())


def test_kubectl_tells_of_a_bad_spec_at_apply_time(stack: Stack) -> None:
    with pytest.raises(CommandFailed, match="minReplicas must not exceed maxReplicas"):
        stack.apply("bad", variants=[{"name": "a", "minReplicas": 2, "maxReplicas": 1}])


async def _answers(kubeconfig: Path, documents: list[Any]) -> list[frozenset[tuple[str, str]]]:
    """Return what the API server says of each document, field by field; it stores none."""
    async with await open_api(kubeconfig) as api:
        return [await _answer(api, document) for document in documents]


async def _answer(api: Api, document: Any) -> frozenset[tuple[str, str]]:
    resource = LORA_ADAPTERS if document["kind"] == LORA_ADAPTERS.kind else MODEL_SERVICES
    params = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        await api.send(Call("create", resource, MODELS), document, params)
    except KubeError as error:
        status = {"code": error.status, "message": error.message, "details": error.details}
        return said_by_server(status)
    return frozenset()
