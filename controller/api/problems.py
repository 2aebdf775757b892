"""Reads documents of our kinds, and says what is wrong with one as the API server would. Pure.

A spec is judged in two places: by the API server, from the CRD, and here, by the models that the
CRD is made of. So that a user meets the same words in both, problems are worded here as Kubernetes
words them: ``field: what it expected``, for all fields at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import orjson
from pydantic import ValidationError

from controller.api.base import API_VERSION, Group
from controller.api.kinds import KINDS, Kind
from controller.api.metadata import metadata_problems, name_in
from controller.api.rules import broken, duplicates, unchecked
from controller.api.words import leaves_rules, worded, wrong_type
from headrace.core.errors import HeadraceError

G = TypeVar("G", bound=Group)

ROOT: Final = "<nil>"
"""The path of the document itself; Go prints a path without parts like this."""

_PARTS: Final = ("apiVersion", "kind", "metadata", "spec", "status")


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
    problems, spec = _judge(KINDS[kind], document)
    if spec is None or problems:
        raise BadSpec(" ".join(filter(None, (kind, name_in(document)))), problems)
    return spec


def parse(model: type[G], value: object) -> tuple[list[Problem], G | None]:
    """Return what is wrong with a spec, and the spec when it could be read."""
    judged = _judge_spec(model, value)
    return judged.problems + judged.broken(), judged.spec


def _judge(kind: Kind, document: Mapping[str, Any]) -> tuple[list[Problem], Group | None]:
    """Return what is wrong with the whole document, and its spec when that could be read."""
    problems = [Problem(part, f'unknown field "{part}"') for part in document if part not in _PARTS]
    problems += [Problem(*found) for found in metadata_problems(document.get("metadata"))]
    if document.get("spec") is None:
        return [*problems, Problem("spec", "Required value")], None
    judged = _judge_spec(kind.spec, document["spec"])
    problems += judged.problems
    name = name_in(document)
    if name and judged.for_rules is not None:
        problems += judged.broken()
        problems += [Problem(ROOT, rule.message) for rule in kind.rules if not rule.holds(name)]
    return problems, judged.spec


@dataclass(frozen=True, slots=True)
class _Judged(Generic[G]):
    """What came of reading a spec.

    Attributes:
        problems: With single fields.
        spec: None where there are any that pydantic found.
        for_rules: What the rules between fields are to be checked on; None where they are not.

    """

    problems: list[Problem]
    spec: G | None = None
    for_rules: G | None = None

    def broken(self) -> list[Problem]:
        if self.for_rules is None:
            return []
        return [Problem(*found) for found in broken(self.for_rules, "spec")]


def _judge_spec(model: type[G], value: object) -> _Judged[G]:
    value = _without_nulls(value)
    if not isinstance(value, dict):
        return _Judged([Problem("spec", wrong_type("spec", "object", value))])
    twice = [Problem(*found) for found in duplicates(model, value, "spec")]
    try:
        spec = model.model_validate_json(orjson.dumps(value), by_alias=True, by_name=False)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems = [Problem(*said) for details in found for said in worded(details)] + twice
        sound = all(leaves_rules(details) for details in found)
        return _Judged(problems, for_rules=unchecked(model, value) if sound else None)
    return _Judged(twice, spec, spec)


def _without_nulls(value: object) -> object:
    """Drop fields that are null: the API server takes them as absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
