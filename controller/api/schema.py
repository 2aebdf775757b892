"""Turns the models of the specs into the structural schemas of CRDs. Pure.

Source of what is allowed: Kubernetes, "Extend the Kubernetes API with CustomResourceDefinitions",
structural schemas; OpenAPI v3.0, where an exclusive bound is a flag beside the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from controller.api.base import Group, Rule
from headrace.service.settings import group_in

_KEPT: Final = (
    "type",
    "description",
    "default",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
)


def structural(model: type[Group]) -> dict[str, Any]:
    """Return the OpenAPI v3 schema of a group, as a CRD may hold it: nothing by reference."""
    raw = model.model_json_schema(by_alias=True)
    return _with_rules(_plain(raw, raw.get("$defs", {})), model)


def _plain(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Resolve references, drop what is for people only, and turn optional into absent."""
    if "$ref" in node:
        target = defs[node["$ref"].rsplit("/", 1)[-1]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    if "anyOf" in node:
        [inner] = [choice for choice in node["anyOf"] if choice.get("type") != "null"]
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return _plain({**inner, **rest}, defs)
    plain: dict[str, Any] = {
        key: node[key] for key in _KEPT if key in node and node[key] is not None
    }
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if flag in node:
            plain |= {bound: node[flag], flag: True}
    if "items" in node:
        plain["items"] = _plain(node["items"], defs)
    if "properties" in node:
        plain["properties"] = {
            name: _plain(value, defs) for name, value in node["properties"].items()
        }
        if node.get("required"):
            plain["required"] = node["required"]
    elif isinstance(node.get("additionalProperties"), dict):
        plain["additionalProperties"] = _plain(node["additionalProperties"], defs)
    if "maxProperties" in node:
        plain["maxProperties"] = node["maxProperties"]
    return plain


def _with_rules(schema: dict[str, Any], model: type[Group]) -> dict[str, Any]:
    """Add the rules of a group and of those inside it."""
    if model.RULES:
        schema["x-kubernetes-validations"] = validations(model.RULES)
    for name, field in model.model_fields.items():
        inner = group_in(field.annotation)
        if inner is None or not issubclass(inner, Group):
            continue
        below = schema["properties"][field.alias or name]
        _with_rules(below["items"] if below["type"] == "array" else below, inner)
        if field.default_factory is not None:
            below["default"] = _default(field.get_default(call_default_factory=True))
    return schema


def validations(rules: Sequence[Rule]) -> list[dict[str, str]]:
    """Return rules as the API server takes them."""
    return [{"rule": rule.cel, "message": rule.message} for rule in rules]


def _default(value: object) -> object:
    """Return a default in full: the API server checks the rules on it before it fills it in."""
    if isinstance(value, list):
        return [_default(item) for item in value]
    assert isinstance(value, Group)
    return _filled(value.model_dump(mode="json", by_alias=True, exclude_none=True))


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    """Drop what is empty, which says nothing and would be stored with every object."""
    inner = {k: _filled(v) if isinstance(v, dict) else v for k, v in value.items()}
    return {k: v for k, v in inner.items() if v not in ({}, [])}
