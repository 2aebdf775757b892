"""Settings of ``headrace controller``."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controller.api.model_service import Engine
from controller.fleets.ray.joined import __file__ as _JOINED
from controller.models.pod import Images

JOINED: Final = Path(_JOINED)

_STRICT = ConfigDict(extra="forbid", frozen=True)


class EngineImages(BaseModel):
    """Images of engines, where a ModelService names none."""

    model_config = _STRICT

    vllm: str = Field(
        default="vllm/vllm-openai:v0.32.0", min_length=1, description="Of vLLM engines."
    )
    sglang: str = Field(
        default="lmsysorg/sglang:v0.5.23", min_length=1, description="Of SGLang engines."
    )
    ray: str = Field(
        default="2.60.0",
        min_length=1,
        description="Version of the Ray in these images, for replicas that span machines.",
    )


class LeaseSettings(BaseModel):
    """How one of several controllers is chosen to act."""

    model_config = _STRICT

    enabled: bool = Field(
        default=True, description="false: act at once. Only where there is one, as in tests."
    )
    name: str = Field(default="headrace-controller", min_length=1, description="Of the Lease.")
    namespace: str | None = Field(
        default=None, description="Where the Lease lies; default: the pod's own namespace."
    )
    duration_s: int = Field(
        default=15, ge=2, le=600, description="A leader that was silent for so long is replaced."
    )
    renew_s: float = Field(default=5.0, gt=0, le=300, description="Between two of its renewals.")

    @model_validator(mode="after")
    def _renews_in_time(self) -> LeaseSettings:
        if self.renew_s * 2 > self.duration_s:
            raise ValueError("renew_s: must be at most half of duration_s")
        return self


class ControllerLog(BaseModel):
    """Logs go to standard error, as JSON."""

    model_config = _STRICT

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lines below it are not written."
    )


class ControllerSettings(BaseModel):
    """The controller: keeps every ModelService as it asks to be."""

    model_config = _STRICT

    namespace: str | None = Field(
        default=None, description="The only one it looks at; default: all of them."
    )
    kubeconfig: Path | None = Field(
        default=None, description="How to reach the API server; default: as the pod we run in."
    )
    image: str = Field(
        default="headrace:latest",
        min_length=1,
        description="Our own, for sidecars and simulated engines. The chart sets it.",
    )
    images: EngineImages = Field(default_factory=EngineImages)
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Of every image of the pods we make."
    )
    workers: int = Field(default=8, ge=1, le=256, description="Services worked on at once.")
    writes_per_s: float = Field(
        default=100.0, gt=0, le=10_000, description="Most writes to the API server, on average."
    )
    writes_burst: int = Field(
        default=200, ge=1, le=100_000, description="Most writes after a quiet time."
    )
    settle_s: float = Field(
        default=0.02,
        ge=0,
        le=10,
        description="How long changes of a service are gathered before it is looked at.",
    )
    adapters_period_s: float = Field(
        default=10.0,
        ge=0.1,
        le=3_600,
        description="Seconds between two times that sidecars are asked which adapters are loaded. "
        "Only for what `kubectl get lora` shows.",
    )
    host: str = Field(default="0.0.0.0", description="Address of /healthz, /readyz and /metrics.")  # noqa: S104
    port: int = Field(default=8_082, ge=0, le=65_535, description="0 takes a free one.")
    lease: LeaseSettings = Field(default_factory=LeaseSettings)
    log: ControllerLog = Field(default_factory=ControllerLog)

    def images_used(self) -> Images:
        """Return them as decisions take them."""
        engines = {Engine.VLLM: self.images.vllm, Engine.SGLANG: self.images.sglang}
        return Images(
            self.image, engines, self.pull_policy, self.images.ray, JOINED.read_text("utf-8")
        )
