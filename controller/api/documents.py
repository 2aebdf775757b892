"""Files of documents of our kinds, as ``kubectl apply -f`` takes them. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from controller.api.base import API_VERSION, GROUP, Group
from controller.api.kinds import KINDS
from controller.api.model_service import ModelServiceSpec
from controller.api.problems import BadSpec, read
from headrace.core.errors import ConfigError
from headrace.service.log import is_secret, mask

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 100_000
"""In one document; far more than an API server would take. YAML's aliases multiply."""


@dataclass(frozen=True, slots=True)
class Document:
    """One object that a file describes.

    Attributes:
        kind: One of ``KINDS``.
        name: Its own.
        metadata: All that it says of itself.
        spec: Read.

    """

    kind: str
    name: str
    metadata: Mapping[str, Any]
    spec: Group

    def filled(self) -> dict[str, Any]:
        """Return it as JSON with defaults filled in; values that look like secrets are masked."""
        spec = self.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        if isinstance(self.spec, ModelServiceSpec):
            for variable in spec["engine"]["env"]:
                if "value" in variable and is_secret(variable["name"]):
                    variable["value"] = mask(variable["value"])
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind,
            "metadata": dict(self.metadata),
            "spec": spec,
        }


@dataclass(frozen=True, slots=True)
class Documents:
    """What a file holds.

    Attributes:
        ours: In its order.
        others: Objects of other groups, which are not ours to judge: kind and name of each.

    """

    ours: tuple[Document, ...]
    others: tuple[str, ...]


def hold_objects(values: Sequence[object]) -> bool:
    """Return whether a file's documents are Kubernetes objects, and not settings."""
    return any(isinstance(value, Mapping) and "apiVersion" in value for value in values)


def read_documents(values: Sequence[object]) -> Documents:
    """Read what a YAML file holds.

    Args:
        values: Its documents as YAML has them: keys may be no text, numbers infinite.

    Raises:
        ConfigError: with every problem of every document, a line each; or when none is ours.

    """
    ours: list[Document] = []
    others: list[str] = []
    wrong: list[str] = []
    for number, value in enumerate(values, start=1):
        try:
            document = _as_object(value)
            if _is_ours(document):
                ours.append(_read(document))
            else:
                others.append(_named(document))
        except (BadSpec, ConfigError) as error:
            wrong.append(f"document {number}: {error}")
    wrong += _twice(ours)
    if wrong:
        raise ConfigError("\n".join(wrong))
    if not ours:
        raise ConfigError(f"nothing of {API_VERSION} is in it; known: {', '.join(KINDS)}")
    return Documents(tuple(ours), tuple(others))


def _is_ours(document: Mapping[str, Any]) -> bool:
    """Return whether it is of our group, in whatever version."""
    return str(document["apiVersion"]).partition("/")[0] == GROUP


def _read(document: Mapping[str, Any]) -> Document:
    kind = str(document["kind"])
    spec = read(kind, document)
    return Document(kind, str(document["metadata"].get("name", "")), document["metadata"], spec)


def _named(document: Mapping[str, Any]) -> str:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return f"{document['kind']} {name or '(no name)'}"


def _twice(documents: Sequence[Document]) -> Iterator[str]:
    """Yield objects that a later document would overwrite."""
    named = Counter(
        (each.kind, each.metadata.get("namespace"), each.name) for each in documents if each.name
    )
    for (kind, _, name), count in named.items():
        if count > 1:
            yield f"{kind} {name}: metadata.name: given {count} times"


def _as_object(value: object) -> dict[str, Any]:
    """Return a document as JSON has it, the way ``kubectl`` turns YAML into JSON."""
    document = _as_json(value, "", 0, [MAX_VALUES])
    if not isinstance(document, dict):
        raise ConfigError(f"expected an object with apiVersion, found {type(value).__name__}")
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str):
            raise ConfigError(f"{field}: Required value")
    return document


def _as_json(value: object, path: str, depth: int, left: list[int]) -> object:
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise ConfigError(f"{path}: too deep, or more than {MAX_VALUES} values in all")
    if isinstance(value, dict):
        return {
            _key(key): _as_json(item, f"{path}.{_key(key)}".lstrip("."), depth + 1, left)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [
            _as_json(item, f"{path}[{index}]", depth + 1, left) for index, item in enumerate(value)
        ]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: a finite number is needed")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    if isinstance(value, date):
        return value.isoformat()
    if value is None or isinstance(value, str | int | float):
        return value
    raise ConfigError(f"{path}: {type(value).__name__} is nothing that JSON has")


def _key(key: object) -> str:
    if isinstance(key, bool):
        return str(key).lower()
    if isinstance(key, str | int | float):
        return str(key)
    raise ConfigError(f"a key must be text, {key!r} is not")
