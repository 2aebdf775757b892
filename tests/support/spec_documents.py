"""What bad specs are made of, and how what an API server says of one is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from controller.api.base import API_VERSION

_PREFIX: Final = re.compile(
    r'^(?:Invalid value|Unsupported value|Too many): (?:"(?:[^"\\]|\\.)*"|[^ ]+): |^Too long: '
)
_UNKNOWN: Final = re.compile(r'unknown field "([^"]*)"')
_UNCHECKED: Final = "some validation rules were not checked"


@dataclass(frozen=True, slots=True)
class BadSpec:
    """One document.

    Attributes:
        name: In words, for the test's name.
        document: As JSON.
        problems: Field and words of each.

    """

    name: str
    document: Mapping[str, Any]
    problems: frozenset[tuple[str, str]]


def said_by_server(status: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return field and words of each cause in a ``Status`` of the API server.

    Left out: the value that a cause repeats, that rules were not checked, and what the scale
    subresource says of ``.spec.replicas`` besides. Unknown fields come in one text, without causes.
    """
    unknown = _UNKNOWN.findall(str(status.get("message", "")))
    if status.get("code") == 400 and unknown:
        return frozenset((field, f'unknown field "{field}"') for field in unknown)
    causes: Iterable[Mapping[str, str]] = status.get("details", {}).get("causes") or ()
    return frozenset(
        (cause["field"], _PREFIX.sub("", cause["message"]))
        for cause in causes
        if cause["field"] != ".spec.replicas" and _UNCHECKED not in cause["message"]
    )


def service(spec: object, name: str = "m") -> dict[str, Any]:
    """Return a ModelService."""
    return document("ModelService", {"name": name}, spec=spec)


def adapter(spec: object, name: str = "a") -> dict[str, Any]:
    """Return a LoraAdapter."""
    return document("LoraAdapter", {"name": name}, spec=spec)


def document(kind: str, metadata: Mapping[str, Any], **rest: object) -> dict[str, Any]:
    """Return a document of a kind."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, **rest}


def variant(**fields: object) -> dict[str, Any]:
    """Return a ModelService of one variant, called a."""
    return service({"variants": [{"name": "a", **fields}]})


def bad(name: str, document: Mapping[str, Any], *problems: tuple[str, str]) -> BadSpec:
    """Return a row of the table."""
    return BadSpec(name, document, frozenset(problems))


def unknown(*fields: str) -> list[tuple[str, str]]:
    """Return what is said of unknown fields."""
    return [(field, f'unknown field "{field}"') for field in fields]


def of_type(field: str, expected: str, found: str) -> tuple[str, str]:
    """Return what is said of a value of another type."""
    return field, f'{field} in body must be of type {expected}: "{found}"'


def in_body(field: str, words: str) -> tuple[str, str]:
    """Return what is said of a value out of bounds."""
    return field, f"{field} in body should {words}"
