"""Settings of ``headrace runtime`` and ``headrace fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from headrace.runtime.artifacts.config import ArtifactSettings
from headrace.runtime.config import KvEventAddresses, ProbeSettings
from headrace.runtime.engines.catalog import EngineProgram

_PROBE: Final = ProbeSettings(measure_tokens=0)
"""Whoever routes measures the engine's speed; a second measurement would disturb the first."""


class EngineSettings(BaseModel):
    """The engine that the sidecar stands beside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        default="http://127.0.0.1:8000", description="Its address, as seen from the sidecar."
    )
    program: EngineProgram = Field(
        default=EngineProgram.VLLM, description="How it is told of adapters."
    )
    key: SecretStr | None = Field(
        default=None, description="Bearer key that it asks for (vLLM's --api-key)."
    )
    adapters: int = Field(
        default=64,
        ge=0,
        le=10_000,
        description="Most adapters loaded at once; 0 refuses all. Those beyond the engine's own "
        "memory for them (vLLM's --max-cpu-loras) are read from disk at each use.",
    )
    adapter_s: float = Field(
        default=120.0,
        gt=0,
        le=3_600,
        description="What the engine may take to load or unload one. SGLang unloads when the "
        "adapter's last request has ended.",
    )

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"expected http://HOST:PORT, found {url!r}")
        return url.rstrip("/")


class DrainSettings(BaseModel):
    """When an engine that is to stop may stop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settle_s: float = Field(
        default=2.0,
        ge=0,
        le=600,
        description="The engine must have been idle for so long: gateways need a moment to see "
        "that it goes, and until then they send it requests.",
    )
    limit_s: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="Longest wait. Set the pod's terminationGracePeriodSeconds above it.",
    )
    look_s: float = Field(
        default=0.25, ge=0.01, le=60, description="Between two looks at the engine's queue."
    )


class RelaySettings(BaseModel):
    """Passing on the engine's KV events, so that gateways connect to the sidecar only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: KvEventAddresses | None = Field(
        default=None,
        description="Where the engine publishes, best on a socket of the pod's own: ipc:///run/…. "
        "Unset turns the relay off.",
    )
    events: str = Field(
        default="tcp://*:5557",
        pattern=r"^(tcp|ipc)://.",
        description="Address to publish them at again.",
    )
    replay: str = Field(
        default="tcp://*:5558",
        pattern=r"^(tcp|ipc)://.",
        description="Address at which past batches are sent again.",
    )
    batches: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Batches kept for that; as many as vLLM."
    )
    subscriber_batches: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Batches kept for a gateway that does not keep up; more are lost to it, and it "
        "asks for them again.",
    )
    replay_s: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="What the engine may take to send again what the relay has missed.",
    )


class SidecarLog(BaseModel):
    """Logs go to standard error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lines below it are not written."
    )


class RuntimeSettings(BaseModel):
    """A sidecar beside one engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104 -- a pod's
    port: int = Field(default=8_081, ge=0, le=65_535, description="0 takes a free one.")
    api_key_file: Path | None = Field(
        default=None,
        description="File with the bearer key that /v1/adapters asks for. Unset: whoever reaches "
        "the port may load adapters, from the sources that are allowed.",
    )
    connections: int = Field(default=256, ge=8, le=65_536, description="Most at once.")
    hold: tuple[Path, ...] = Field(
        default=(),
        max_length=64,
        description="Folders in the cache that the engine uses besides adapters, its model above "
        "all; links to them will do. They are not evicted while the sidecar runs.",
    )
    engine: EngineSettings = Field(default_factory=EngineSettings)
    artifacts: ArtifactSettings = Field(default_factory=ArtifactSettings)
    probe: ProbeSettings = Field(default=_PROBE)
    drain: DrainSettings = Field(default_factory=DrainSettings)
    kv_relay: RelaySettings = Field(default_factory=RelaySettings)
    log: SidecarLog = Field(default_factory=SidecarLog)
