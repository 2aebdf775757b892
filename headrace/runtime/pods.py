"""Endpoints that are pods: what each says of itself, and how it is doing. Pure.

A pod says how to talk to it in the annotation ``headrace.dev/endpoint``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from headrace.core.endpoint import EndpointView, Health, KvEventSource, Role, Speed
from headrace.core.ids import EndpointId, ModelName
from headrace.service.kube.resource import Object

SERVICE_LABEL: Final = "headrace.dev/model-service"
ROLE_LABEL: Final = "headrace.dev/role"
ENDPOINT_ANNOTATION: Final = "headrace.dev/endpoint"

_SPEED: Final = Speed()
_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
_Rate = Annotated[float, msgspec.Meta(gt=0)]


class SaidSpeed(msgspec.Struct, frozen=True):
    """Fields of ``Speed``; those left out are presumed."""

    prefill_tokens_per_s: _Rate = _SPEED.prefill_tokens_per_s
    kv_tokens: Annotated[int, msgspec.Meta(gt=0)] = _SPEED.kv_tokens
    fetch_tokens_per_s: _Rate = _SPEED.fetch_tokens_per_s
    transfer_tokens_per_s: _Rate = _SPEED.transfer_tokens_per_s
    adapter_load_ms: Annotated[float, msgspec.Meta(ge=0)] = _SPEED.adapter_load_ms
    sequences: Annotated[int, msgspec.Meta(gt=0)] | None = _SPEED.sequences


class Said(msgspec.Struct, frozen=True):
    """The annotation. Keys we do not know are of a later version, and left alone.

    Attributes:
        port: Of the engine's HTTP server.
        runtime_port: Of the sidecar's; None where there is none.
        kv_events_port: Of the socket that publishes KV events.
        kv_replay_port: Of the socket that sends past ones again.
        models: Names it will serve, as far as they are to be known before it does.
        simulated: Whether it is one of our simulated engines.
        speed: What is presumed before it is measured.
        adapter_room: Adapters that its sidecar lets it know at once.

    """

    port: _Port
    runtime_port: _Port | None = None
    kv_events_port: _Port | None = None
    kv_replay_port: _Port | None = None
    models: tuple[str, ...] = ()
    simulated: bool = False
    speed: SaidSpeed = SaidSpeed()
    adapter_room: Annotated[int, msgspec.Meta(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a pod is to a gateway: an endpoint, or not one; then ``problem`` says what is wrong.

    No view and no problem: there is nothing to talk to, and nothing is amiss.
    """

    view: EndpointView | None = None
    problem: str = ""


NOTHING: Final = Sighting()


def sighting(pod: Object) -> Sighting:
    """Read a pod.

    It is an endpoint from when all its containers run to when none does. It is DOWN while its
    sidecar says that it is not ready, and DRAINING from when it is deleted. A READY one is still
    to be looked at: the API tells late of machines that are gone.
    """
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotation = (metadata.get("annotations") or {}).get(ENDPOINT_ANNOTATION)
    address = status.get("podIP")
    if annotation is None or not address or status.get("phase") != "Running":
        return NOTHING
    labels: Mapping[str, str] = metadata.get("labels") or {}
    try:
        said = msgspec.json.decode(annotation, type=Said)
    except msgspec.DecodeError as error:  # ValidationError is one
        return Sighting(problem=f"annotation {ENDPOINT_ANNOTATION}: {error}")
    try:
        role = Role(labels.get(ROLE_LABEL, Role.BOTH))
    except ValueError:
        return Sighting(problem=f"label {ROLE_LABEL}: {labels[ROLE_LABEL]!r} is no role")
    host = _host(address)
    view = EndpointView(
        EndpointId(f"{metadata['namespace']}/{metadata['name']}"),
        f"http://{host}:{said.port}",
        tuple(ModelName(name) for name in said.models),
        role=role,
        health=_health(metadata, status),
        speed=Speed(**msgspec.structs.asdict(said.speed)),
        kv_events=_events(said, host),
        labels=tuple(sorted((name, value) for name, value in labels.items() if value)),
        simulated=said.simulated,
        runtime_url=None if said.runtime_port is None else f"http://{host}:{said.runtime_port}",
        adapter_room=said.adapter_room,
    )
    return Sighting(view)


def slim(pod: dict[str, Any]) -> Object:
    """Return the part of a pod that is read here: some hundred bytes of ten thousand."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotation = (metadata.get("annotations") or {}).get(ENDPOINT_ANNOTATION)
    kept = ("name", "namespace", "uid", "resourceVersion", "deletionTimestamp", "labels")
    return {
        "metadata": {
            **{name: metadata[name] for name in kept if name in metadata},
            "annotations": {} if annotation is None else {ENDPOINT_ANNOTATION: annotation},
        },
        "status": {
            "phase": status.get("phase"),
            "podIP": status.get("podIP"),
            "conditions": [
                {"type": condition["type"], "status": condition["status"]}
                for condition in status.get("conditions") or ()
                if condition["type"] == _READY
            ],
        },
    }


_READY: Final = "ContainersReady"
"""The kubelet's own word. ``Ready`` is also taken away from every pod of a machine whose kubelet is
silent, which may be the control plane's trouble and not the machine's: our own looks tell.

Source: k8s.io/kubernetes v1.34, pkg/controller/util/node, ``MarkPodsNotReady``.
"""


def _health(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> Health:
    if metadata.get("deletionTimestamp") is not None:
        return Health.DRAINING
    conditions = status.get("conditions") or ()
    ready = any(c["type"] == _READY and c["status"] == "True" for c in conditions)
    return Health.READY if ready else Health.DOWN


def _events(said: Said, host: str) -> KvEventSource | None:
    if said.kv_events_port is None:
        return None
    replay = None if said.kv_replay_port is None else f"tcp://{host}:{said.kv_replay_port}"
    return KvEventSource(f"tcp://{host}:{said.kv_events_port}", replay)


def _host(address: str) -> str:
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
