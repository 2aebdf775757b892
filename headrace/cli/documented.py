"""A settings class as commented YAML. Pure."""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Iterator
from typing import Final

import yaml
from pydantic import BaseModel

from headrace.service.log import is_secret, mask

WIDTH: Final = 96
"""Columns of the comment lines."""


def documented(model: type[BaseModel]) -> str:
    """Return the defaults of ``model`` as YAML, each field under its description as a comment.

    Reading the text back gives the defaults. Fields without a default are shown as comments.
    """
    return "".join(f"{line}\n".lstrip("\n") for line in _lines(model, model(), 0))


def _lines(model: type[BaseModel], values: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in model.model_fields.items():
        value = getattr(values, name)
        nested = isinstance(value, BaseModel) and bool(type(value).model_fields)
        description = field.description or (inspect.getdoc(type(value)) if nested else None)
        for line in _wrapped(description or "", WIDTH - len(indent)):
            yield f"{indent}# {line}"
        if nested:
            yield f"{indent}{name}:"
            yield from _lines(type(value), value, depth + 1)
        else:
            plain = values.model_dump(mode="json")[name]
            yield f"{indent}{name}: {_yaml(mask(plain) if is_secret(name) else plain)}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split("\n\n", maxsplit=1)[0].split()), width)


def _yaml(value: object) -> str:
    """Return a value on one line; dumped inside a list, since a bare one gets an end marker."""
    return yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()[1:-1]
