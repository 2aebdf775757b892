"""What an object's metadata must be for an API server to take it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from controller.api.words import wrong_type

KNOWN: Final = frozenset(
    {
        "name",
        "generateName",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
"""Source: metav1.ObjectMeta."""

MAX_NAME: Final = 253
GENERATED: Final = 5
MAX_GENERATED_NAME: Final = 63
"""Source: k8s.io/apiserver, names.SimpleNameGenerator: five characters after a prefix."""

_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"


def name_in(document: Mapping[str, Any]) -> str:
    """Return the name that the object will have, or one as long; "" if it has none."""
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping):
        return ""
    name, prefix = metadata.get("name"), metadata.get("generateName")
    if isinstance(name, str) and name:
        return name
    if isinstance(prefix, str) and prefix:
        return prefix[: MAX_GENERATED_NAME - GENERATED] + "x" * GENERATED
    return ""


def metadata_problems(metadata: object) -> Iterator[tuple[str, str]]:
    """Yield the path of a field and what is wrong with it."""
    if metadata is not None and not isinstance(metadata, dict):
        yield "metadata", wrong_type("metadata", "object", metadata)
        return
    given = metadata or {}
    for key in given:
        if key not in KNOWN:
            yield f"metadata.{key}", f'unknown field "metadata.{key}"'
    yield from _name_problems(given)
    for group in ("labels", "annotations"):
        yield from _texts(f"metadata.{group}", given.get(group))


def _name_problems(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("name", "generateName", "namespace"):
        if given.get(key) is not None and not isinstance(given[key], str):
            yield f"metadata.{key}", wrong_type(f"metadata.{key}", "string", given[key])
            return
    name = given.get("name")
    if not name:
        if not given.get("generateName"):
            yield "metadata.name", "Required value: name or generateName is required"
        return
    if len(name) > MAX_NAME:
        yield "metadata.name", f"must be no more than {MAX_NAME} characters"
    if not re.fullmatch(_SUBDOMAIN, name):
        yield (
            "metadata.name",
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, "
            "'-' or '.', and must start and end with an alphanumeric character (e.g. "
            f"'example.com', regex used for validation is '{_SUBDOMAIN}')",
        )


def _texts(path: str, values: object) -> Iterator[tuple[str, str]]:
    if values is None:
        return
    if not isinstance(values, dict):
        yield path, wrong_type(path, "object", values)
        return
    for key, value in values.items():
        if not isinstance(value, str):
            yield f"{path}.{key}", wrong_type(f"{path}.{key}", "string", value)
