"""The CustomResourceDefinitions, made of the spec models. Pure; ``make docs`` writes them."""

from __future__ import annotations

from typing import Any, Final

import yaml

from controller.api import lora_adapter, model_service
from controller.api.base import GROUP, VERSION
from controller.api.kinds import KINDS, Kind
from controller.api.schema import structural, validations

_INT: Final = {"type": "integer", "format": "int32"}
_COUNTS: Final = ("replicas", "readyReplicas", "updatedReplicas")

CONDITIONS: Final[dict[str, Any]] = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string"},
            "message": {"type": "string"},
            "observedGeneration": {"type": "integer", "format": "int64"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    },
}
"""Source: metav1.Condition."""

_GENERATION: Final = {"type": "integer", "format": "int64"}

_SERVICE_STATUS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "observedGeneration": _GENERATION,
        **dict.fromkeys(_COUNTS, _INT),
        "selector": {"type": "string"},
        "variants": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "wanted": _INT,
                    **dict.fromkeys(_COUNTS, _INT),
                    "revision": {"type": "string"},
                    "stableRevision": {"type": "string"},
                    "failedRevision": {"type": "string"},
                    "failedBecause": {"type": "string"},
                    "reason": {"type": "string"},
                },
            },
        },
        "conditions": CONDITIONS,
    },
}

_ADAPTER_STATUS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "observedGeneration": _GENERATION,
        "loadedReplicas": _INT,
        "conditions": CONDITIONS,
    },
}


def _column(name: str, path: str, kind: str = "string", priority: int = 0) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path}
    return {**column, "priority": priority} if priority else column


def _condition(kind: str, field: str) -> str:
    return f".status.conditions[?(@.type=='{kind}')].{field}"


_AGE: Final = _column("Age", ".metadata.creationTimestamp", "date")


def crds() -> dict[str, dict[str, Any]]:
    """Return the definitions by their names."""
    service = _crd(
        KINDS[model_service.KIND],
        _SERVICE_STATUS,
        [
            _column("Ready", ".status.readyReplicas", "integer"),
            _column("Replicas", ".status.replicas", "integer"),
            _column("Wanted", ".spec.replicas", "integer"),
            _column("Updated", ".status.updatedReplicas", "integer"),
            _column("Available", _condition("Available", "status")),
            _column("Status", _condition("Progressing", "reason")),
            _column("Engine", ".spec.engine.kind", priority=1),
            _column("Model", ".spec.model.source", priority=1),
            _AGE,
        ],
    )
    service["spec"]["versions"][0]["subresources"]["scale"] = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    adapter = _crd(
        KINDS[lora_adapter.KIND],
        _ADAPTER_STATUS,
        [
            _column("Base", ".spec.base"),
            _column("Replicas", ".spec.replicas", "integer"),
            _column("Loaded", ".status.loadedReplicas", "integer"),
            _column("Ready", _condition("Ready", "status")),
            _column("Reason", _condition("Ready", "reason")),
            _column("Source", ".spec.source", priority=1),
            _AGE,
        ],
    )
    return {crd["metadata"]["name"]: crd for crd in (service, adapter)}


def _crd(kind: Kind, status: dict[str, Any], columns: list[dict[str, Any]]) -> dict[str, Any]:
    about = (kind.spec.__doc__ or "").strip()
    schema = {
        "type": "object",
        "required": ["spec"],
        "description": about,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(kind.spec),
            "status": status,
        },
        "x-kubernetes-validations": validations(kind.rules),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": list(kind.short_names),
                "categories": ["headrace"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def crd_files() -> dict[str, str]:
    """Return the file of each definition, as YAML, by file name."""
    return {
        f"{name}.yaml": yaml.safe_dump(crd, sort_keys=False, width=100, allow_unicode=True)
        for name, crd in crds().items()
    }
