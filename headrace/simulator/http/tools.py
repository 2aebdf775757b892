"""Answers that must have a form: arguments for a tool, or JSON by a schema. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.simulator.http.errors import bad
from headrace.simulator.http.wire import ChatRequest, Tool

_DEPTH: Final = 8
_SIMPLE: Final[Mapping[str, Any]] = {
    "string": "text",
    "integer": 1,
    "number": 1.5,
    "boolean": True,
    "null": None,
    "array": [],
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The call the answer makes; ``required`` tells ``tool_choice`` from a named function."""

    name: str
    arguments: bytes
    required: bool


def instance_of(schema: object, depth: int = 0) -> Any:
    """Return a small value that a JSON schema allows; subschemas by reference are not followed."""
    if not isinstance(schema, dict) or depth > _DEPTH:
        return {}
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    for name in ("enum", "examples", "anyOf", "oneOf", "allOf"):
        options = schema.get(name)
        if isinstance(options, list) and options:
            return instance_of(options[0], depth + 1) if name.endswith("Of") else options[0]
    return _of_type(schema, depth)


def _of_type(schema: dict[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0] if kind else "object"
    if not isinstance(kind, str) or kind not in _SIMPLE:
        return _object(schema, depth)
    if kind == "integer" and isinstance(schema.get("minimum"), int):
        return schema["minimum"]
    return _SIMPLE[kind]


def _object(schema: dict[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required")
    names = required if isinstance(required, list) else list(properties)
    return {
        name: instance_of(properties.get(name, {}), depth + 1)
        for name in names
        if isinstance(name, str)
    }


def tool_call(request: ChatRequest, *, auto_allowed: bool) -> ToolCall | None:
    """Return the call that ``tool_choice`` asks for, or None when the answer is text.

    Raises:
        ApiError: 400 for a choice that makes no sense, in vLLM's words.

    """
    choice = request.tool_choice
    tools = request.tools or []
    if choice is None or (isinstance(choice, str) and choice in {"none", "auto"}):
        if tools and choice != "none" and not auto_allowed:
            raise bad(
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to '
                "be set"
            )
        return None
    if not tools:
        raise bad("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice == "required":
        return _call(tools[0], required=True)
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    for tool in tools:
        if name is not None and tool.function.name == name:
            return _call(tool, required=False)
    raise bad(
        "The tool specified in `tool_choice` does not match any of the specified `tools`",
        "tool_choice",
    )


def _call(tool: Tool, *, required: bool) -> ToolCall:
    arguments = _dumps(instance_of(tool.function.parameters or {}))
    return ToolCall(tool.function.name, arguments, required)


def formatted(response_format: object) -> bytes | None:
    """Return the JSON that ``response_format`` asks for, or None when any text will do."""
    if not isinstance(response_format, dict):
        return None
    if response_format.get("type") == "json_object":
        return b"{}"
    if response_format.get("type") != "json_schema":
        return None
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    return _dumps(instance_of(schema))


def _dumps(value: object) -> bytes:
    """Return JSON in ASCII, so that it may be cut at any byte."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
