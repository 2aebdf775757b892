"""Reads documents of our kinds, and says what is wrong with one as the API server would. Pure.

A spec is judged in two places: by the API server, from the CRD, and here, by the models that the
CRD is made of. So that a user meets the same words in both, problems are worded here as Kubernetes
words them: ``field: what it expected``, for all fields at once.

Source of the words: k8s.io/apiextensions-apiserver and k8s.io/kube-openapi v0.34, seen from a real
API server by the end-to-end suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from controller.api import lora_adapter, model_service
from controller.api.base import API_VERSION, Group
from controller.api.lora_adapter import LoraAdapterSpec
from controller.api.model_service import ModelServiceSpec
from headrace.core.errors import HeadraceError

G = TypeVar("G", bound=Group)

KINDS: Final[Mapping[str, type[Group]]] = MappingProxyType(
    {model_service.KIND: ModelServiceSpec, lora_adapter.KIND: LoraAdapterSpec}
)
"""The spec of each kind."""

_TYPES: Final = MappingProxyType(
    {
        "int_type": "integer",
        "int_from_float": "integer",
        "float_type": "number",
        "string_type": "string",
        "bool_type": "boolean",
        "list_type": "array",
        "dict_type": "object",
        "model_type": "object",
    }
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: the field's path, and what was expected of it."""

    field: str
    expected: str

    def __str__(self) -> str:
        """Return it as a user reads it."""
        return f"{self.field}: {self.expected}"


class BadSpec(HeadraceError):
    """A document that cannot be used; the message has a line per problem."""

    def __init__(self, what: str, problems: list[Problem]) -> None:
        lines = "\n  ".join(str(problem) for problem in problems)
        super().__init__(f"{what}: {len(problems)} problem(s)\n  {lines}")
        self.problems = problems


def read(kind: str, document: Mapping[str, Any]) -> Group:
    """Return the spec of a document of a kind we know.

    Raises:
        BadSpec: with every problem, in the order of the fields.

    """
    if kind not in KINDS or document.get("apiVersion") != API_VERSION:
        known = ", ".join(KINDS)
        raise BadSpec(str(kind), [Problem("kind", f"expected one of {known} of {API_VERSION}")])
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not name:
        raise BadSpec(
            kind, [Problem("metadata.name", "Required value: name or generateName is required")]
        )
    if "spec" not in document:
        raise BadSpec(f"{kind} {name}", [Problem("spec", "Required value")])
    problems, spec = parse(KINDS[kind], document["spec"])
    if spec is None or problems:
        raise BadSpec(f"{kind} {name}", problems)
    return spec


def parse(model: type[G], value: object) -> tuple[list[Problem], G | None]:
    """Return what is wrong with a spec, and the spec when it could be read."""
    try:
        spec = model.model_validate_json(orjson.dumps(value))
    except ValidationError as error:
        return [_worded(details) for details in error.errors(include_url=False)], None
    return list(_broken_rules(spec, "spec")), spec


def _worded(details: ErrorDetails) -> Problem:
    """Return a problem that pydantic found, in the API server's words."""
    field = _path(details["loc"])
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(field, f'unknown field "{field}"')
    if kind == "missing":
        return Problem(field, "Required value")
    if kind in _TYPES:
        found = _type_of(details["input"])
        return Problem(field, f'{field} in body must be of type {_TYPES[kind]}: "{found}"')
    if kind in ("literal_error", "enum"):
        allowed = str(context["expected"]).replace(" or ", ", ").replace("'", '"')
        return Problem(field, f"supported values: {allowed}")
    words = _BOUNDS.get(kind)
    return Problem(field, words(field, context) if words else details["msg"])


_BOUNDS: Final[Mapping[str, Callable[[str, dict[str, Any]], str]]] = MappingProxyType(
    {
        "greater_than_equal": lambda f, c: (
            f"{f} in body should be greater than or equal to {c['ge']:g}"
        ),
        "greater_than": lambda f, c: f"{f} in body should be greater than {c['gt']:g}",
        "less_than_equal": lambda f, c: f"{f} in body should be less than or equal to {c['le']:g}",
        "string_pattern_mismatch": lambda f, c: f"{f} in body should match '{c['pattern']}'",
        "string_too_short": lambda f, c: (
            f"{f} in body should be at least {c['min_length']} chars long"
        ),
        "string_too_long": lambda _, c: f"may not be more than {c['max_length']} bytes",
        "too_long": lambda _, c: f"must have at most {c['max_length']} items",
        "too_short": lambda f, c: f"{f} in body should have at least {c['min_length']} items",
    }
)


def _path(loc: tuple[int | str, ...]) -> str:
    path = "spec"
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if value is None:
        return "null"
    return {str: "string", float: "number", list: "array", dict: "object"}[type(value)]


def _broken_rules(group: Group, path: str) -> Iterator[Problem]:
    """Yield the rules between fields that do not hold, outermost last as the API server does."""
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        inside = f"{path}.{field.alias or name}"
        if isinstance(value, Group):
            yield from _broken_rules(value, inside)
        elif isinstance(value, list):
            yield from _broken_items(value, inside, field.json_schema_extra)
    for rule in group.RULES:
        if not rule.holds(group):
            yield Problem(path, rule.message)


def _broken_items(values: list[Any], path: str, extra: object) -> Iterator[Problem]:
    keys = extra.get("x-kubernetes-list-map-keys") if isinstance(extra, dict) else None
    seen: set[tuple[str, ...]] = set()
    for index, item in enumerate(values):
        if not isinstance(item, Group):
            return
        yield from _broken_rules(item, f"{path}[{index}]")
        if isinstance(keys, list):
            key = tuple(str(getattr(item, str(name))) for name in keys)
            if key in seen:
                named = orjson.dumps(dict(zip(keys, key, strict=True))).decode()
                yield Problem(f"{path}[{index}]", f"Duplicate value: {named}")
            seen.add(key)
