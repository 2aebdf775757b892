"""Settings of a fleet on Ray."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Placement(StrEnum):
    """Where the nodes' shares of one replica go; Ray's own words.

    Source: https://docs.ray.io/en/latest/ray-core/scheduling/placement-group.html
    """

    STRICT_PACK = "strict_pack"
    PACK = "pack"
    STRICT_SPREAD = "strict_spread"
    SPREAD = "spread"


class RaySettings(BaseModel):
    """Engines on a Ray cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str = Field(
        default="auto",
        min_length=1,
        description="host:port of the cluster's head; auto: the cluster that this machine is in. "
        "This machine must be one of its nodes.",
    )
    name: str = Field(
        default="headrace",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
        description="Of this fleet, unique in the cluster: one that is started again under its "
        "name takes over the replicas that it finds.",
    )
    cards_per_node: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Ray's GPUs of each node of a replica. Default: vLLM, tp x pp over nodes; "
        "simulated, 0. 0 runs vLLM on CPU.",
    )
    cpus_per_node: float = Field(
        default=1.0, gt=0, le=1_024, description="Ray's CPUs of each node of a replica."
    )
    resources: dict[str, float] = Field(
        default_factory=dict,
        description="Further resources of each node of a replica, by Ray's name for them.",
    )
    placement: Placement | None = Field(
        default=None,
        description="How the nodes of one replica are placed: strict_pack, pack, strict_spread or "
        "spread. Default: strict_spread with several nodes.",
    )
    keep: bool = Field(
        default=False,
        description="Leave replicas running when we stop; the next start takes them over.",
    )
    period_s: float = Field(
        default=0.5, gt=0, le=60, description="How often the cluster is looked at."
    )
    call_s: float = Field(
        default=10.0, gt=0, le=600, description="Longest wait for an answer of Ray's."
    )
    lost_after_s: float = Field(
        default=30.0,
        gt=0,
        le=3_600,
        description="A supervisor silent for this long is lost, and its replica made anew. One "
        "that Ray knows to be dead is made anew at once.",
    )
    surge_wait_s: float = Field(
        default=30.0,
        ge=0,
        le=3_600,
        description="When settings changed, a new replica replaces the old one once it serves; "
        "when it finds no room for this long, the old one gives way first.",
    )

    @field_validator("address")
    @classmethod
    def _no_client(cls, address: str) -> str:
        if address.startswith("ray://"):
            raise ValueError("Ray Client is not supported: give the head's host:port, or auto")
        return address

    @field_validator("resources")
    @classmethod
    def _own(cls, resources: dict[str, float]) -> dict[str, float]:
        for name, amount in resources.items():
            if name in ("CPU", "GPU") or amount <= 0:
                raise ValueError(f"{name}: more than 0 is needed, and not of CPU or GPU")
        return resources
