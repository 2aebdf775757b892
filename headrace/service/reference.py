"""Reference pages made from the tables they document, so that they cannot go stale. Pure."""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from headrace.service.metrics import MetricSpec
from headrace.service.settings import group_in

_MARKS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


def metrics_table(metrics: Sequence[MetricSpec]) -> str:
    """Return the table of metrics in Markdown."""
    rows = ["| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for spec in metrics:
        labels = ", ".join(f"`{label}`" for label in spec.labels) or "none"
        rows.append(f"| `{spec.name}` | {spec.kind} | {spec.unit} | {labels} | {spec.help} |")
    return "\n".join(rows) + "\n"


def settings_tables(model: type[BaseModel], skip: Collection[str] = (), top: str = "") -> str:
    """Return one Markdown section per group of settings, named by its dotted path.

    Args:
        model: The settings. Fields are called as they are outside, by their aliases.
        skip: Top-level groups that are described elsewhere.
        top: Path of the model itself.

    """
    return "\n".join(
        _section(path, group)
        for path, group in _groups(model, top)
        if path.split(".")[0] not in skip
    )


def _groups(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield ``model`` and all groups below it, each once per place, outer ones first."""
    yield path, model
    for name, field in model.model_fields.items():
        inner = group_in(field.annotation)
        if inner is not None:
            many = "[]" if typing.get_origin(field.annotation) in (list, tuple) else ""
            yield from _groups(inner, f"{path}.{field.alias or name}{many}".lstrip("."))


def _section(path: str, model: type[BaseModel]) -> str:
    intro = (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    lines = [f"## `{path}`" if path else "## Top level", "", " ".join(intro.split()), ""]
    lines += ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for own_name, field in model.model_fields.items():
        name = field.alias or own_name
        lines.append(
            f"| `{name}` | {_default(field)} | {_allowed(field)} | {_meaning(path, name, field)} |"
        )
    return "\n".join(lines) + "\n"


def _meaning(path: str, name: str, field: FieldInfo) -> str:
    if field.description:
        return _cell(field.description)
    inner = group_in(field.annotation)
    return "" if inner is None else f"see `{f'{path}.{name}'.lstrip('.')}`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if group_in(field.annotation) is not None and field.default is PydanticUndefined:
        return ""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or isinstance(value, BaseModel):
        return "unset" if value is None else ""
    if isinstance(value, float):
        value = f"{value:g}"
    elif isinstance(value, tuple):
        value = list(value)
    return f"`{_cell(str(value))}`"


def _allowed(field: FieldInfo) -> str:
    return ", ".join([_cell(_words(field.annotation)), *_bounds(field.metadata)])


def _bounds(metadata: Sequence[object]) -> list[str]:
    return [
        f"{mark} {_number(getattr(bound, attribute))}"
        for kind, attribute, mark in _MARKS
        for bound in metadata
        if isinstance(bound, kind)
    ]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


_WORDS: Final = {
    type(None): "unset",
    str: "text",
    int: "integer",
    float: "number",
    bool: "yes or no",
    SecretStr: "secret",
    Path: "path",
}


def _words(annotation: object) -> str:
    """Say in words what a value may be."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return _plain_words(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is typing.Annotated:
        fields = [each for each in inner[1:] if isinstance(each, FieldInfo)]
        return ", ".join([_words(inner[0]), *(b for f in fields for b in _bounds(f.metadata))])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(kind) for kind in inner)
    name = "mapping" if origin is dict else "list"
    return f"{name} of {' to '.join(_words(kind) for kind in inner if kind is not ...)}"


def _plain_words(annotation: object) -> str:
    if not isinstance(annotation, type):
        return "value"
    if issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    return "group" if issubclass(annotation, BaseModel) else _WORDS.get(annotation, "value")


def _cell(text: str) -> str:
    """Make a text fit a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
