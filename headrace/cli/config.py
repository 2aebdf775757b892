"""The settings of commands that serve: those of each part, under its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from controller.config import ControllerSettings
from controller.fleets.config import FleetSettings
from gateway.config import GatewaySettings
from headrace.cli.finding_config import DiscoverySettings
from headrace.runtime.config import MAX_LISTED, EndpointSettings, ProbeSettings, told_apart
from headrace.runtime.sidecar.config import RuntimeSettings
from kvcache.index import IndexLimits
from router.catalog import DEFAULT_POLICY, POLICIES
from router.held import HoldLimits
from router.router import Options, Router

_HOLD: Final = HoldLimits()
_INDEX: Final = IndexLimits()


class HoldSettings(BaseModel):
    """When requests wait in the gateway instead of in an engine's queue: while all are full.

    Only policies that cost time hold requests.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = Field(
        default=_HOLD.requests,
        ge=0,
        le=65_536,
        description="Most requests held; more are sent on at once, full or not. 0 never holds: "
        "for engines whose queue has an order of its own, or that others send requests to as well.",
    )
    longest_s: float = Field(
        default=_HOLD.longest_s,
        gt=0,
        le=3_600,
        description="Longest that one is held, in seconds; then it goes where it costs least. Set "
        "it below the time-out of your clients.",
    )
    queue_ms: float = Field(
        default=_HOLD.queue_ms,
        gt=0,
        le=60_000,
        description="An endpoint with a longer queue of prompts, in milliseconds of its prefill, "
        "is full. About one step of the engine: raise it where steps are longer or engines are far "
        "away, so that none runs dry; lower it and short requests pass long ones sooner.",
    )
    kv_ratio: float = Field(
        default=_HOLD.kv_ratio,
        gt=0,
        le=2,
        description="So is one whose KV cache the requests in flight would fill beyond this share. "
        "Lower it where engines preempt; above 1 where replies are far shorter than they may be.",
    )

    def limits(self) -> HoldLimits:
        """Return these settings as the value that decides."""
        return HoldLimits(**self.model_dump())


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
    hold: HoldSettings = Field(default_factory=HoldSettings)
    index_blocks: int = Field(
        default=_INDEX.blocks,
        ge=1_000,
        le=1_000_000_000,
        description="Most KV blocks, each counted once however many endpoints hold it, that the "
        "prefix index knows of engines that name their blocks alike; about 85 bytes each. Beyond "
        "it the least used are forgotten, and their prefixes routed as if nobody held them. The "
        "default suits 64 engines of 80,000 blocks.",
    )

    @field_validator("policy")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in POLICIES:
            raise ValueError(f"unknown policy {name!r}; known: {', '.join(sorted(POLICIES))}")
        return name

    def options(self, time_scale: float = 1.0) -> Options:
        """Return these settings as the router takes them.

        Args:
            time_scale: Of a simulated fleet.

        """
        return Options(
            seed=self.seed,
            time_scale=time_scale,
            hold=self.hold.limits(),
            index=IndexLimits(blocks=self.index_blocks),
        )

    def router(self, time_scale: float = 1.0) -> Router:
        """Return a router set up so."""
        return Router(self.policy, self.options(time_scale))


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


class PublishSettings(BaseModel):
    """How gateways that run apart find the fleet's engines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    socket: Path | None = Field(
        default=None,
        description="Unix socket that tells which endpoints there are, for `headrace gateway "
        "--socket`; only our own user may connect. Needed with fleet.kind local: those on Ray are "
        "found there, too.",
    )
    readers: int = Field(
        default=64, ge=1, le=4_096, description="Most gateways connected to it at once."
    )


class KeepSettings(BaseModel):
    """A fleet whose gateways run apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fleet: FleetSettings = Field(default_factory=FleetSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    log: LogSettings = Field(default_factory=LogSettings)


class FrontSettings(BaseModel):
    """A gateway in this process over engines that others run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    router: RouterSettings = Field(default_factory=RouterSettings)
    discovery: DiscoverySettings = Field(default_factory=DiscoverySettings)
    endpoints: tuple[EndpointSettings, ...] = Field(
        default=(), max_length=MAX_LISTED, description="The engines, for discovery.kind list."
    )
    probe: ProbeSettings = Field(default_factory=ProbeSettings)
    log: LogSettings = Field(default_factory=LogSettings)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.discovery.kind != "list" and self.endpoints:
            raise ValueError("endpoints are for discovery.kind list")
        return self

    @field_validator("endpoints")
    @classmethod
    def _told_apart(cls, endpoints: tuple[EndpointSettings, ...]) -> tuple[EndpointSettings, ...]:
        return told_apart(endpoints)


KINDS: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {
        "up": UpSettings,
        "gateway": FrontSettings,
        "fleet": KeepSettings,
        "runtime": RuntimeSettings,
        "controller": ControllerSettings,
    }
)
"""Settings classes by the kind that ``headrace config`` names them."""
