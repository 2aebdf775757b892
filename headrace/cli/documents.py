"""Files of ModelServices and LoraAdapters at the command line: read, shown, described.

Reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from controller.api import lora_adapter, model_service
from controller.api.base import API_VERSION, Group
from controller.api.documents import Documents, hold_objects, read_documents
from controller.api.kinds import KINDS
from controller.api.lora_adapter import LoraAdapterSpec
from controller.api.model_service import ModelServiceSpec
from headrace.cli.documented import documented
from headrace.core.errors import ConfigError
from headrace.service import settings


@dataclass(frozen=True, slots=True)
class Start:
    """What a document to start from says."""

    kind: str
    name: str
    spec: Group


STARTS: Final[Mapping[str, Start]] = MappingProxyType(
    {
        "model-service": Start(model_service.KIND, "my-model", ModelServiceSpec()),
        "lora-adapter": Start(
            lora_adapter.KIND,
            "my-adapter",
            LoraAdapterSpec(base="my-model", source="hf://my-organisation/my-adapter"),
        ),
    }
)
"""By the word that ``headrace config --kind`` has for the kind."""


def load(path: Path) -> Documents | None:
    """Return the documents of a file; None when it is a file of settings.

    Raises:
        ConfigError: with all that is wrong with the file.

    """
    values = settings.read_documents(path)
    if not hold_objects(values):
        return None
    try:
        return read_documents(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def filled(documents: Documents) -> str:
    """Return documents with their defaults as YAML."""
    return yaml.safe_dump_all(
        [document.filled() for document in documents.ours],
        sort_keys=False,
        default_flow_style=False,
        allow_unicode=True,
    )


def to_start_from(word: str) -> str:
    """Return a document with every field and what it means as comments."""
    start = STARTS[word]
    return (
        f"apiVersion: {API_VERSION}\nkind: {start.kind}\nmetadata:\n  name: {start.name}\nspec:\n"
    ) + documented(type(start.spec), start.spec, depth=1)


def json_schema(word: str) -> dict[str, Any]:
    """Return the JSON Schema of a kind's documents, for editors.

    Rules between fields are not in it: JSON Schema has no words for them.
    """
    kind = KINDS[STARTS[word].kind]
    spec = kind.spec.model_json_schema(by_alias=True)
    defs = spec.pop("$defs", {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.name,
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind.name},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": {"type": "object"},
        },
        "additionalProperties": False,
        "$defs": defs,
    }
