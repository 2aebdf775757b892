"""``LoraAdapter``: LoRA weights on the model of a ``ModelService``. Pure."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from controller.api.base import Group, Name, Text

KIND: Final = "LoraAdapter"
PLURAL: Final = "loraadapters"


class LoraAdapterSpec(Group):
    """What the adapter is, and where it should be."""

    base: Name = Field(description="The ModelService whose model it changes, same namespace.")
    source: Text = Field(
        description="URI of its folder: file, http, https, s3, gs or hf; what may be read is the "
        "sidecar's setting."
    )
    name: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        default=None, description="What clients call it; default: the object's own name."
    )
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)] | None = Field(
        default=None,
        description="Over its files; others are refused. A new digest is a new version: it is "
        "loaded under a path of its own, so no KV of the old one is used.",
    )
    rank: Annotated[int, Field(ge=1, le=512)] | None = Field(
        default=None, description="Of its matrices, where you know it."
    )
    replicas: Annotated[int, Field(ge=0, le=5_000)] | None = Field(
        default=None,
        description="Endpoints that have it loaded always; default: on demand only.",
    )
