"""What every kind is made of: strict camel-case groups, and rules that span fields. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP: Final = "headrace.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
"""A DNS label; short enough that the names we make of it are labels too."""

Text = Annotated[str, Field(min_length=1, max_length=1_024)]

FreeObject = Annotated[
    dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
]
"""A value of Kubernetes' own, passed on as it is: the API server checks it when pods are made."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold between the fields of a group.

    Attributes:
        cel: As the API server checks it (Common Expression Language; ``self`` is the group).
        message: What both the API server and ``headrace config check`` say when it does not hold.
        holds: The same check here.

    """

    cel: str
    message: str
    holds: Callable[[Any], bool]


class Group(BaseModel):
    """Fields of a spec: unknown ones are refused, names are camel case outside."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, strict=True
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()
