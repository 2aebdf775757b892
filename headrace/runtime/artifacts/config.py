"""Settings of the node's cache of artifacts, and of how they are fetched."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from headrace.core.errors import InvalidRequest
from headrace.runtime.artifacts.allowed import parse_uri


class S3Settings(BaseModel):
    """An S3-compatible store. Keys come from where the vendor's client looks (AWS_* and others)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_url: str | None = Field(
        default=None, description="Of a store that is not Amazon's: http://minio:9000, say."
    )
    region: str | None = Field(default=None, description="Region of the buckets.")
    anonymous: bool = Field(default=False, description="Send no credentials: public buckets.")


class ArtifactSettings(BaseModel):
    """Where files of models and adapters may come from, and where they are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cache_dir: Path = Field(
        default=Path("/var/cache/headrace"),
        description="Folder shared by the pods of a node; every process that uses it locks what it "
        "touches. The engine must see it under the same path.",
    )
    cache_bytes: int = Field(
        default=500 * 10**9,
        ge=1 << 20,
        description="Bytes kept; what was used least recently and is not in use makes room.",
    )
    keep_s: float = Field(
        default=600.0,
        ge=0,
        le=30 * 86_400,
        description="What was used this recently is not evicted even if nobody holds it: the time "
        "between an init container that fetches a model and the sidecar that holds it.",
    )
    allow: tuple[str, ...] = Field(
        default=("hf://", "s3://", "gs://"),
        max_length=256,
        description="Sources that may be fetched, by what they begin with, whole path segments at "
        "a time: s3://bucket/adapters, hf://org, https://models.example.com/, file:///mnt/models. "
        "Others are refused, redirections to others too. Local paths and web servers are to be "
        "named here: a caller must not have us read what only we can reach.",
    )
    parts: int = Field(
        default=8, ge=1, le=256, description="Ranges downloaded at once, over all artifacts."
    )
    part_bytes: int = Field(
        default=16 << 20, ge=4_096, le=1 << 30, description="Length of a range."
    )
    tries: int = Field(
        default=6,
        ge=1,
        le=100,
        description="Attempts at a range in a row that bring nothing before the download fails. "
        "One that brought something goes on where it broke off and counts anew.",
    )
    retry_first_s: float = Field(
        default=0.5, ge=0, le=60, description="Wait before the second attempt; doubles each time."
    )
    retry_most_s: float = Field(default=15.0, ge=0, le=600, description="Longest such wait.")
    idle_s: float = Field(
        default=30.0, gt=0, le=600, description="A connection that brings nothing for so long ends."
    )
    limit_s: float = Field(
        default=3_600.0, gt=0, le=7 * 86_400, description="Longest that one fetch may take."
    )
    files: int = Field(default=10_000, ge=1, le=1_000_000, description="Most files of an artifact.")
    s3: S3Settings = Field(default_factory=S3Settings)

    @field_validator("allow")
    @classmethod
    def _are_prefixes(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in allow:
            try:
                parse_uri(prefix, prefix=True)
            except InvalidRequest as error:
                raise ValueError(error.message) from None
        return allow
