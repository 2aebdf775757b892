"""The kinds there are, each in one value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from controller.api import lora_adapter, model_service
from controller.api.base import Group, Rule
from controller.api.lora_adapter import LoraAdapterSpec
from controller.api.model_service import ModelServiceSpec


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document.

    Attributes:
        name: As documents say it.
        plural: As URLs say it.
        short_names: What ``kubectl`` takes for it, too.
        spec: What its ``spec`` holds.
        rules: On its name, which ``holds`` is given. All that a rule at the root of a CRD may see
            of ``metadata`` is ``name`` and ``generateName``.

    """

    name: str
    plural: str
    short_names: tuple[str, ...]
    spec: type[Group]
    rules: tuple[Rule, ...]


def _at_most(characters: int) -> Rule:
    return Rule(
        f"size(self.metadata.name) <= {characters}",
        f"metadata.name must have at most {characters} characters",
        lambda name: len(name) <= characters,
    )


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        model_service.KIND: Kind(
            model_service.KIND,
            model_service.PLURAL,
            ("ms",),
            ModelServiceSpec,
            # Pods are called by it, by a variant's name and by what tells them apart.
            (_at_most(40),),
        ),
        lora_adapter.KIND: Kind(
            lora_adapter.KIND,
            lora_adapter.PLURAL,
            ("lora",),
            LoraAdapterSpec,
            # The longest that fits into a label.
            (_at_most(63),),
        ),
    }
)
"""By name."""
