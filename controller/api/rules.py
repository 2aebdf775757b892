"""What must hold between fields, checked in the order and to the extent of the API server. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

import orjson
from pydantic.fields import FieldInfo

from controller.api.base import Group
from headrace.service.settings import group_in

G = TypeVar("G", bound=Group)


def broken(group: Group, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the message of rules that do not hold, outermost last."""
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        inside = f"{path}.{field.alias or name}"
        if isinstance(value, Group):
            yield from broken(value, inside)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Group):
                    yield from broken(item, f"{inside}[{index}]")
    for rule in group.RULES:
        if not rule.holds(group):
            yield path, rule.message


def unchecked(model: type[G], value: Mapping[str, Any]) -> G:
    """Build a group whose values are of the right types, whatever their bounds.

    The API server checks the rules of such a spec, too; so that we can, it is built as it is.
    """
    fields: dict[str, Any] = {
        name: _unchecked(field, value[field.alias or name])
        for name, field in model.model_fields.items()
        if (field.alias or name) in value
    }
    return model.model_construct(**fields)


def _unchecked(field: FieldInfo, value: Any) -> object:
    inner = group_in(field.annotation)
    if inner is not None and issubclass(inner, Group):
        if isinstance(value, list):
            return [unchecked(inner, item) for item in value]
        return unchecked(inner, value)
    if isinstance(field.annotation, type) and issubclass(field.annotation, Enum):
        return field.annotation(value)
    return value


def duplicates(model: type[Group], value: object, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the message of list items with a key that another has, each key once.

    Args:
        model: What ``value`` ought to be; it may be anything.
        value: As JSON.
        path: Of ``value``.

    """
    if not isinstance(value, Mapping):
        return
    for name, field in model.model_fields.items():
        below = field.alias or name
        inner, inside = group_in(field.annotation), value.get(below)
        if inner is None or not issubclass(inner, Group):
            continue
        if isinstance(inside, list):
            yield from _duplicates(field, inside, f"{path}.{below}")
            for index, item in enumerate(inside):
                yield from duplicates(inner, item, f"{path}.{below}[{index}]")
        else:
            yield from duplicates(inner, inside, f"{path}.{below}")


def _duplicates(field: FieldInfo, items: list[Any], path: str) -> Iterator[tuple[str, str]]:
    extra = field.json_schema_extra
    keys = extra.get("x-kubernetes-list-map-keys") if isinstance(extra, dict) else None
    if not isinstance(keys, list):
        return
    seen: dict[bytes, int] = {}
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            continue
        named = {str(key): item[str(key)] for key in keys if str(key) in item}
        key = orjson.dumps(named)
        seen[key] = seen.get(key, 0) + 1
        if named and seen[key] == 2:
            yield f"{path}[{index}]", f"Duplicate value: {key.decode()}"
