"""Settings and specs as commented YAML. Pure."""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Iterator
from typing import Final, TypeVar

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from headrace.service.log import is_secret, mask
from headrace.service.settings import group_in

M = TypeVar("M", bound=BaseModel)

WIDTH: Final = 96
"""Columns of the comment lines."""


def documented(model: type[M], values: M | None = None, depth: int = 0) -> str:
    """Return ``values`` as YAML, each field under its description as a comment.

    Reading the text back gives the same values. Groups that are unset are shown as comments.

    Args:
        model: Their class.
        values: Default: those of a model of which nothing is said.
        depth: Levels to indent by.

    """
    lines = _lines(model, model() if values is None else values, depth)
    return "".join(f"{line}\n".lstrip("\n") for line in lines)


def _lines(model: type[BaseModel], values: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    plain = values.model_dump(mode="json")
    for name, field in model.model_fields.items():
        value = getattr(values, name)
        nested = isinstance(value, BaseModel) and bool(type(value).model_fields)
        description = field.description or (inspect.getdoc(type(value)) if nested else None)
        for line in _wrapped(description or "", WIDTH - len(indent)):
            yield f"{indent}# {line}"
        key = f"{indent}{field.alias or name}:"
        unset = _group_unset(field) if value is None else None
        if nested:
            yield key
            yield from _lines(type(value), value, depth + 1)
        elif unset is not None:
            yield f"{indent}# {field.alias or name}:"
            yield from (f"{indent}# {line}" for line in _lines(unset, unset(), 1))
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            yield key
            for item in value:
                yield from _item(item, depth + 1)
        else:
            yield f"{key} {_yaml(mask(plain[name]) if is_secret(name) else plain[name])}"


def _group_unset(field: FieldInfo) -> type[BaseModel] | None:
    """Return the group that a field could hold, if one can be made of nothing."""
    group = group_in(field.annotation)
    if group is None or any(inner.is_required() for inner in group.model_fields.values()):
        return None
    return group


def _item(group: BaseModel, depth: int) -> Iterator[str]:
    """Yield the lines of one group of a list: its first field stands behind a dash."""
    dash = "  " * depth + "- "
    for line in _lines(type(group), group, depth + 1):
        if not dash:
            yield line
        elif line.lstrip().startswith("#"):
            yield line[2:]
        else:
            yield dash + line[len(dash) :]
            dash = ""


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split("\n\n", maxsplit=1)[0].split()), width)


def _yaml(value: object) -> str:
    """Return a value on one line; dumped inside a list, since a bare one gets an end marker."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]
