"""What pydantic found wrong, in the words of an API server. Pure.

Source of the words: k8s.io/apiextensions-apiserver and k8s.io/kube-openapi v0.34, seen from a real
API server by the end-to-end suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic_core import ErrorDetails

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
        "too_short": lambda f, c: f"{f} in body should have at least {c['min_length']} items",
    }
)
"""Out of bounds, but of the right type: the rules between fields are checked all the same."""

_LENGTHS: Final[Mapping[str, Callable[[dict[str, Any]], str]]] = MappingProxyType(
    {
        "string_too_long": lambda c: f"may not be more than {c['max_length']} bytes",
        "too_long": lambda c: f"must have at most {c['max_length']} items",
    }
)


def leaves_rules(details: ErrorDetails) -> bool:
    """Return whether the API server checks the rules in spite of this."""
    return details["type"] in _BOUNDS


def worded(details: ErrorDetails) -> Iterator[tuple[str, str]]:
    """Yield the path of the field, and what is said of it."""
    field = path_of(details["loc"])
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        yield field, f'unknown field "{field}"'
    elif kind == "missing":
        yield field, "Required value"
    elif kind in _TYPES:
        yield field, wrong_type(field, _TYPES[kind], details["input"])
    elif kind in ("literal_error", "enum"):
        if not isinstance(details["input"], str):
            yield field, wrong_type(field, "string", details["input"])
        allowed = str(context["expected"]).replace(" or ", ", ").replace("'", '"')
        yield field, f"supported values: {allowed}"
    elif kind in _BOUNDS:
        yield field, _BOUNDS[kind](field, context)
    elif kind in _LENGTHS:
        yield field, _LENGTHS[kind](context)
    else:
        yield field, details["msg"]


def path_of(loc: tuple[int | str, ...]) -> str:
    """Return the path of a field of the spec."""
    path = "spec"
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path


def wrong_type(field: str, expected: str, value: object) -> str:
    """Return what is said of a value of another type than the field's."""
    return f'{field} in body must be of type {expected}: "{_type_of(value)}"'


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if value is None:
        return "null"
    return {str: "string", float: "number", list: "array", dict: "object"}[type(value)]
