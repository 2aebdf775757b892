"""Settings from one YAML file and dotted overrides, with every problem reported at once.

Reads one file. Called by the command line before anything starts.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from typing_extensions import override

from headrace.core.errors import ConfigError
from headrace.service.log import is_secret, mask

M = TypeVar("M", bound=BaseModel)

MAX_FILE_BYTES = 1 << 20
"""Longest settings file read; ours are a few kilobytes."""


def load_settings(
    model: type[M], path: Path | None, overrides: Mapping[str, object] | None = None
) -> M:
    """Build ``model`` from the YAML file at ``path``, then from ``overrides``.

    Args:
        model: The settings class; it should forbid unknown keys.
        path: The file, or None for defaults only.
        overrides: Values by dotted field (``{"gateway.port": 8080}``); they win over the file.

    Raises:
        ConfigError: the message has one line per problem, each naming its dotted field; for an
            unknown key it lists the keys that exist there.

    """
    values = _read(path) if path is not None else {}
    for dotted, value in (overrides or {}).items():
        _put(values, dotted, value)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        problems = [
            _problem(model, item["loc"], item["type"], item["msg"]) for item in error.errors()
        ]
        raise ConfigError(
            f"{where}{len(problems)} problem(s)\n  " + "\n  ".join(problems)
        ) from None


def describe(settings: BaseModel) -> str:
    """Return the effective settings as YAML, secrets masked."""
    values = settings.model_dump(mode="json")
    return yaml.safe_dump(_masked(values), sort_keys=False, default_flow_style=False)


def _masked(value: object, name: str = "") -> object:
    if isinstance(value, dict):
        return {key: _masked(item, str(key)) for key, item in value.items()}
    if value is not None and is_secret(name):
        return mask(value)
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key written twice, which plain YAML resolves silently in favour of the last."""

    @override
    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict[Hashable, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} appears twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(raw: bytes) -> object:
    """Return the one YAML document of a text.

    Raises:
        ConfigError: if it is none, or has a key twice.

    """
    try:
        return yaml.load(raw, Loader=_UniqueKeyLoader)  # noqa: S506 -- derives from SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"not YAML: {error}") from None


def read_documents(path: Path) -> list[object]:
    """Return the YAML documents of a file; those without content are left out.

    Raises:
        ConfigError: if the file cannot be read or is not YAML.

    """
    raw = _raw(path)
    with _yaml_errors(path):
        loaded = list(yaml.load_all(raw, Loader=_UniqueKeyLoader))
    return [document for document in loaded if document is not None]


def _read(path: Path) -> dict[str, object]:
    raw = _raw(path)
    with _yaml_errors(path):
        values = yaml.load(raw, Loader=_UniqueKeyLoader)  # noqa: S506 -- derives from SafeLoader
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def _raw(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_FILE_BYTES} bytes")
    return raw


@contextmanager
def _yaml_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None


def _put(values: dict[str, object], dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    here = values
    for name in parents:
        below = here.setdefault(name, {})
        if below is None:
            below = here[name] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"{dotted}: {name!r} is a value, not a group of settings")
        here = below
    here[last] = value


def _problem(model: type[BaseModel], loc: tuple[int | str, ...], kind: str, message: str) -> str:
    dotted = ".".join(str(part) for part in loc) or "(file)"
    if kind == "extra_forbidden":
        known = ", ".join(sorted(_fields_at(model, loc[:-1])))
        return f"{dotted}: unknown key; known here: {known}"
    return f"{dotted}: {message[:1].lower()}{message[1:]}"


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the model found by walking ``loc`` from ``model``."""
    here: type[BaseModel] | None = model
    for part in loc:
        if here is None:
            return []
        if isinstance(part, str) and part in here.model_fields:
            here = group_in(here.model_fields[part].annotation)
    return list(here.model_fields) if here is not None else []


def group_in(annotation: object) -> type[BaseModel] | None:
    """Return the first settings group inside an annotation such as ``list[Group] | None``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for inner in typing.get_args(annotation):
        found = group_in(inner)
        if found is not None:
            return found
    return None
