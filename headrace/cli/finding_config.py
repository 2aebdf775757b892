"""Settings of where a gateway finds its engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from controller.fleets.ray.config import RaySettings
from headrace.runtime.pods import ENDPOINT_ANNOTATION, SERVICE_LABEL

_RAY: Final = RaySettings()

FIELDS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "list": frozenset(),
        "file": frozenset({"path"}),
        "socket": frozenset({"path"}),
        "ray": frozenset({"address", "fleet"}),
        "kubernetes": frozenset({"namespace", "label_selector", "kubeconfig", "context"}),
    }
)
"""What each kind reads."""


class DiscoverySettings(BaseModel):
    """Where the engines are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["list", "file", "socket", "ray", "kubernetes"] = Field(
        default="list",
        description="list: those under endpoints. file: those that a file lists, read again when "
        "it changes. socket: those of a `headrace fleet` on this machine. ray: those of one on "
        "this Ray cluster. kubernetes: the pods of ModelServices. All but list are followed as "
        "they come and go; while the source is away, those last known stay in use.",
    )
    path: Path | None = Field(
        default=None,
        description='file: {"endpoints": [...]} as JSON or YAML, with the fields of endpoints '
        "below. socket: what publish.socket is to the fleet.",
    )
    address: str = Field(
        default=_RAY.address,
        min_length=1,
        description="ray: host:port of the cluster's head; auto: the cluster that this machine is "
        "in. This machine must be one of its nodes.",
    )
    fleet: str = Field(
        default=_RAY.name,
        min_length=1,
        max_length=40,
        description="ray: which fleet; its fleet.ray.name.",
    )
    namespace: str = Field(
        default="",
        max_length=63,
        pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$",
        description="kubernetes: of the pods; empty: all namespaces.",
    )
    label_selector: str = Field(
        default=SERVICE_LABEL,
        min_length=1,
        max_length=4_096,
        description="kubernetes: which pods, as in `kubectl get -l`. Each says in its annotation "
        f"{ENDPOINT_ANNOTATION} how to talk to it.",
    )
    kubeconfig: Path | None = Field(
        default=None,
        description="kubernetes: unset: the account of the pod we run in, else $KUBECONFIG, else "
        "~/.kube/config.",
    )
    context: str | None = Field(
        default=None,
        min_length=1,
        description="kubernetes: of the kubeconfig. Unset: its current one.",
    )

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        said = self.model_dump(exclude={"kind"}, exclude_defaults=True)
        for field in said:
            if field not in FIELDS[self.kind]:
                kinds = " or ".join(kind for kind, read in FIELDS.items() if field in read)
                raise ValueError(f"{field}: for discovery.kind {kinds}")
        if "path" in FIELDS[self.kind] and self.path is None:
            raise ValueError(f"path: needed for discovery.kind {self.kind}")
        return self
