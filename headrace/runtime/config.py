"""Settings of the engine's side."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ProbeSettings(BaseModel):
    """How endpoints are watched. Durations in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    period_s: float = Field(
        default=1.0,
        ge=0.05,
        le=60,
        description="Between two looks at an endpoint. A vLLM /metrics page costs it 6 ms.",
    )
    starting_period_s: float = Field(
        default=0.1,
        ge=0.01,
        le=60,
        description="The same while it is not ready: this is added to every cold start.",
    )
    timeout_s: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="For /health, /v1/models and /metrics. vLLM answers in 11 ms under load.",
    )
    failures_to_down: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Failed looks in a row after which an endpoint is down; fewer would drop a "
        "busy engine for one slow answer. A refused connection counts as all of them.",
    )
    generate_timeout_s: float = Field(
        default=60.0,
        gt=0,
        le=600,
        description="For the one token an endpoint must generate before it is ready: the first "
        "request of a cold engine may compile.",
    )
    stall_s: float = Field(
        default=60.0,
        gt=0,
        le=3_600,
        description="An endpoint that has requests running and reports no step and no token for "
        "this long is down, whatever its /health says. Longer than any one step.",
    )
    measure_tokens: int = Field(
        default=1_024,
        ge=0,
        le=65_536,
        description="Length of the prompt that measures a new endpoint's prefill speed, once, "
        "before it is ready; 0 keeps the presumed speed.",
    )
    concurrency: int = Field(
        default=32, ge=1, le=1_024, description="Looks in flight at once, over all endpoints."
    )
    measured_at_once: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Endpoints that are being made ready at once: engines that share a machine "
        "would otherwise measure each other.",
    )
    page_limit_bytes: int = Field(
        default=4 << 20, ge=1_024, le=1 << 28, description="Longest page or reply that is read."
    )
