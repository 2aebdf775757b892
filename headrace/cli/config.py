"""The settings of ``headrace up``: those of each part, under its name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from controller.fleets.config import FleetSettings
from gateway.config import GatewaySettings
from router.catalog import DEFAULT_POLICY, POLICIES


class RouterSettings(BaseModel):
    """How requests are placed on endpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str = Field(
        default=DEFAULT_POLICY,
        description=(
            f"One of: {', '.join(sorted(POLICIES))}. The default expects the first token soonest, "
            "from what is in flight and what is likely cached."
        ),
    )
    seed: int = Field(default=0, ge=0, description="Of the generator that breaks ties.")

    @field_validator("policy")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in POLICIES:
            raise ValueError(f"unknown policy {name!r}; known: {', '.join(sorted(POLICIES))}")
        return name


class LogSettings(BaseModel):
    """Logs go to standard error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lines below it are not written; info has one per request."
    )
    form: Literal["auto", "json", "text"] = Field(
        default="auto", description="auto: text on a terminal, JSON elsewhere."
    )


class UpSettings(BaseModel):
    """A gateway in this process over a fleet of local engines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    router: RouterSettings = Field(default_factory=RouterSettings)
    fleet: FleetSettings = Field(default_factory=FleetSettings)
    log: LogSettings = Field(default_factory=LogSettings)


KINDS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType({"up": UpSettings})
"""Settings classes by the kind that ``headrace config`` names them."""
