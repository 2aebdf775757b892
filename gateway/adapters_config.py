"""Settings of adapters: which there are, and how they are loaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from headrace.core.adapter import AdapterSpec
from headrace.core.ids import ModelName
from headrace.runtime.artifacts.config import ArtifactSettings
from headrace.runtime.engines.catalog import EngineProgram

_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


class AdapterEntry(BaseModel):
    """LoRA weights on a base model."""

    model_config = _STRICT

    name: str = Field(min_length=1, max_length=256, description="What clients call it.")
    base: str = Field(min_length=1, max_length=256, description="The model that it changes.")
    source: str = Field(
        min_length=1,
        max_length=1_024,
        description="URI of its folder: file, http, https, s3, gs or hf.",
    )
    digest: str | None = Field(
        default=None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Over its files; others are refused. A new digest is a new version. Unset: "
        "what is there, looked at again every `recheck_s`.",
    )
    rank: int | None = Field(default=None, ge=1, le=512, description="Of its matrices.")
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=4_096,
        description="Endpoints that are to have it always; unset: as many as requests ask for.",
    )
    pinned: bool = Field(
        default=False, description="It stays where it has been loaded, asked for or not."
    )

    def spec(self) -> AdapterSpec:
        """Return it as the value that the router takes."""
        return AdapterSpec(
            ModelName(self.name),
            ModelName(self.base),
            self.source,
            rank=self.rank,
            digest=self.digest,
            replicas=self.replicas,
            pinned=self.pinned,
        )


class AdapterSettings(BaseModel):
    """Adapters that endpoints are given when requests ask for them.

    An endpoint with a sidecar loads through it; to others the gateway itself brings the files, into
    a folder that they must see under the same path.
    """

    model_config = _STRICT

    known: tuple[AdapterEntry, ...] = Field(
        default=(), max_length=100_000, description="The adapters there are."
    )
    load_s: float = Field(
        default=120.0,
        gt=0,
        le=3_600,
        description="Seconds that a request is held while its adapter is loaded, its download "
        "included; then it is tried elsewhere.",
    )
    loads_at_once: int = Field(
        default=32, ge=1, le=4_096, description="Adapters being loaded at once, over all endpoints."
    )
    per_endpoint: int = Field(
        default=64,
        ge=1,
        le=100_000,
        description="Adapters that an endpoint is to know; the one asked for least recently is "
        "unloaded for the next. No more than its sidecar allows (its `engine.adapters`).",
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        le=4_096,
        description="Adapters that an endpoint can have in one step (vLLM's --max-loras), where it "
        "does not say. Unset: slots are not reckoned with.",
    )
    park_after_s: float | None = Field(
        default=None,
        gt=0,
        description="Unload an adapter from an endpoint that nobody has asked for it in so long. "
        "Unset: only to make room.",
    )
    recheck_s: float = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="Seconds after which the files of an adapter without a digest are looked at "
        "again, before the next request for it: bounds how long old weights are served after the "
        "files were replaced. Give digests where the source is slow.",
    )
    rest_s: float = Field(
        default=5.0,
        gt=0,
        le=3_600,
        description="Seconds for which an endpoint that failed to load an adapter is not asked to.",
    )
    plan_s: float = Field(
        default=2.0, gt=0, le=3_600, description="Seconds between two looks at what to load ahead."
    )
    engine: EngineProgram = Field(
        default=EngineProgram.VLLM,
        description="What endpoints without a sidecar are, if not simulated.",
    )
    artifacts: ArtifactSettings = Field(
        default_factory=lambda: ArtifactSettings(cache_dir=Path("~/.cache/headrace")),
        description="Where the gateway keeps files for endpoints without a sidecar. Sources named "
        "in `known` are allowed here; a sidecar has an allow-list of its own.",
    )

    @field_validator("known")
    @classmethod
    def _told_apart(cls, entries: tuple[AdapterEntry, ...]) -> tuple[AdapterEntry, ...]:
        for name, count in Counter(entry.name for entry in entries).items():
            if count > 1:
                raise ValueError(f"{count} adapters are called {name!r}")
        return entries

    def specs(self) -> list[AdapterSpec]:
        """Return the adapters as the router takes them."""
        return [entry.spec() for entry in self.known]
