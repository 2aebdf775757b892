"""An adapter as its owner describes it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.core.ids import ModelName


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """LoRA weights on a base model.

    Attributes:
        name: What clients call it.
        base: The model that it changes.
        source: URI of its files.
        rank: Of its matrices; None where nobody said.
        digest: ``sha256:`` and 64 hex digits over its files; None takes what is there.
        replicas: Endpoints that are to have it always; None for as many as requests ask for.
        pinned: Whether it stays where it has been loaded, however long nobody asks for it.

    """

    name: ModelName
    base: ModelName
    source: str
    rank: int | None = None
    digest: str | None = None
    replicas: int | None = None
    pinned: bool = False
