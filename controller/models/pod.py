"""The pod of one replica: its engine, the sidecar beside it, and how both come and go. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from controller.api.base import API_VERSION
from controller.api.model_service import KIND, Engine, ModelServiceSpec, Variant
from controller.models.engines import FINISH_S, Command, command
from controller.models.ray import cluster, spanning, spans
from controller.models.state import Owner
from controller.models.words import (
    CACHE_FOLDER,
    ENDPOINT_ANNOTATION,
    ENGINE,
    ENGINE_PORT,
    EVENTS_PORT,
    MANAGED_BY,
    REPLAY_PORT,
    REVISION_LABEL,
    ROLE_LABEL,
    RUNTIME,
    RUNTIME_PORT,
    SERVICE_LABEL,
    VARIANT_LABEL,
)

REMOTE: Final = ("http://", "https://", "s3://", "gs://", "hf://")
"""Sources that are fetched before the engine starts; others it opens itself."""

MARGIN_S: Final = 10
"""Between the end of the engine's own wait and being killed."""

NODE_LOST_S: Final = 20
"""How long a pod stays bound to a node that does not answer, once Kubernetes has noticed."""

_LOCKED: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True, slots=True)
class Images:
    """What runs where the spec names none.

    Attributes:
        headrace: Our own: sidecar and simulated engines.
        engines: By engine.
        pull_policy: Of all of them.
        ray_version: Of the Ray in engines' images, for replicas that span machines.
        gate: Text of the program that waits for all machines of such a replica.

    """

    headrace: str
    engines: Mapping[Engine, str]
    pull_policy: str = "IfNotPresent"
    ray_version: str = ""
    gate: str = ""


def served_name(owner: Owner, spec: ModelServiceSpec) -> str:
    """Return what clients call the model."""
    return spec.model.name or owner.name


def template(
    owner: Owner, spec: ModelServiceSpec, variant: Variant, images: Images
) -> dict[str, Any]:
    """Return the labels, annotations and spec of every pod of a variant.

    Equal inputs give equal templates, whatever the service's scale: changing a number of replicas
    never exchanges pods.
    """
    image = spec.engine.image or images.engines.get(spec.engine.kind, images.headrace)
    source = spec.model.source or ""
    link = _link(source) if source.startswith(REMOTE) else None
    started = command(spec, variant, served_name(owner, spec), link or source)
    sidecars = [_runtime(spec, images, link)]
    if link is not None:
        sidecars.insert(0, _fetch(source, link, images))
    extras = spec.pod
    made = {
        "labels": {
            **extras.labels,
            SERVICE_LABEL: owner.name,
            VARIANT_LABEL: variant.name,
            ROLE_LABEL: variant.role,
            MANAGED_BY[0]: MANAGED_BY[1],
        },
        "annotations": {**extras.annotations, ENDPOINT_ANNOTATION: _endpoint(owner, spec)},
        "spec": _without_none(
            {
                "initContainers": sidecars,
                "containers": [_engine(spec, variant, image, started, images.pull_policy)],
                "volumes": _volumes(spec, variant),
                # After preStop has waited, the engine gets its own time, and then some.
                "terminationGracePeriodSeconds": spec.rollout.drain_seconds + FINISH_S + MARGIN_S,
                "serviceAccountName": extras.service_account_name,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "priorityClassName": extras.priority_class_name,
                "runtimeClassName": extras.runtime_class_name,
                "imagePullSecrets": extras.image_pull_secrets or None,
                "nodeSelector": variant.node_selector or None,
                "tolerations": [*variant.tolerations, *_node_lost()],
                "affinity": _apart(owner, variant),
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            }
        ),
    }
    if variant.nodes == 1:
        return made
    return spanning(made, variant, images.ray_version, images.gate)


def revision(template: Mapping[str, Any]) -> str:
    """Return a short name for a template: equal templates have equal ones."""
    return hashlib.sha256(orjson.dumps(template, option=orjson.OPT_SORT_KEYS)).hexdigest()[:10]


def replica(owner: Owner, name: str, template: Mapping[str, Any], revision: str) -> dict[str, Any]:
    """Return the object of one replica made from a template: a pod, or a cluster of several."""
    if not spans(template):
        return _pod(owner, name, template, revision)
    made = cluster(name, owner.namespace, template, revision)
    made["metadata"]["ownerReferences"] = [owner_reference(owner)]
    return made


def _pod(owner: Owner, name: str, template: Mapping[str, Any], revision: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": {**template["labels"], REVISION_LABEL: revision},
            "annotations": template["annotations"],
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": template["spec"],
    }


def owner_reference(owner: Owner) -> dict[str, Any]:
    """Return the reference by which Kubernetes deletes what belongs to a deleted service."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _engine(
    spec: ModelServiceSpec, variant: Variant, image: str, started: Command, pull_policy: str
) -> dict[str, Any]:
    given = [env.model_dump(by_alias=True, exclude_none=True) for env in spec.engine.env]
    ports = [{"name": "http", "containerPort": ENGINE_PORT}]
    if spec.engine.kv_events:
        ports += [{"name": "kv-events", "containerPort": EVENTS_PORT}]
        ports += [{"name": "kv-replay", "containerPort": REPLAY_PORT}]
    health = {"httpGet": {"path": "/health", "port": "http"}}
    tries = max(1, spec.rollout.progress_deadline_seconds // 5)
    return _without_none(
        {
            "name": ENGINE,
            "image": image,
            "imagePullPolicy": pull_policy,
            "command": list(started.command),
            "args": list(started.args),
            "env": [{"name": key, "value": value} for key, value in started.env.items()] + given,
            "ports": ports,
            "resources": _resources(variant),
            # A model loads for minutes; from then on an engine that is silent for half a minute
            # hangs. Whether tokens come is the sidecar's to say.
            "startupProbe": {**health, "periodSeconds": 5, "failureThreshold": tries},
            "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 5},
            "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": RUNTIME_PORT}}},
            "volumeMounts": [
                {"name": "cache", "mountPath": CACHE_FOLDER},
                *([{"name": "shm", "mountPath": "/dev/shm"}] if _several(variant) else []),  # noqa: S108
                *spec.pod.volume_mounts,
            ],
            "securityContext": {**_LOCKED, "runAsUser": 10001, "runAsNonRoot": True}
            if spec.engine.kind is Engine.SIMULATED
            else {"allowPrivilegeEscalation": False},
        }
    )


def _link(source: str) -> str:
    """Return where the engine finds a fetched model: pods of one cache may have different ones."""
    return f"{CACHE_FOLDER}/model-{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def _runtime(spec: ModelServiceSpec, images: Images, model: str | None) -> dict[str, Any]:
    args = ["runtime", "--engine", spec.engine.kind.value, "--port", str(RUNTIME_PORT)]
    args += ["--engine-url", f"http://127.0.0.1:{ENGINE_PORT}"]
    args += ["--cache", CACHE_FOLDER, "--drain-limit-s", str(max(1, spec.rollout.drain_seconds))]
    if model is not None:
        args += ["--hold", model]
    if spec.lora is not None:
        args += ["--adapters", str(spec.lora.max_cpu_loras)]
        for prefix in spec.lora.sources:
            args += ["--allow", prefix]
    return {
        "name": RUNTIME,
        "image": images.headrace,
        "imagePullPolicy": images.pull_policy,
        "restartPolicy": "Always",  # an init container that stays: it is there before and after
        "args": args,
        "ports": [{"name": RUNTIME, "containerPort": RUNTIME_PORT}],
        "startupProbe": {
            "httpGet": {"path": "/healthz", "port": RUNTIME},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": RUNTIME},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": RUNTIME},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        },
        "resources": {
            "requests": {"cpu": "20m", "memory": "96Mi"},
            "limits": {"memory": "512Mi"},
        },
        "volumeMounts": _sidecar_mounts(),
        "securityContext": _sidecar_security(),
    }


def _fetch(source: str, link: str, images: Images) -> dict[str, Any]:
    return {
        "name": "fetch",
        "image": images.headrace,
        "imagePullPolicy": images.pull_policy,
        "args": ["fetch", source, "--cache", CACHE_FOLDER, "--link", link],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": _sidecar_mounts(),
        "securityContext": _sidecar_security(),
    }


def _sidecar_mounts() -> list[dict[str, str]]:
    return [
        {"name": "cache", "mountPath": CACHE_FOLDER},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- a volume of the pod's own
    ]


def _sidecar_security() -> dict[str, Any]:
    return {
        **_LOCKED,
        "runAsUser": 10001,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
    }


def _resources(variant: Variant) -> dict[str, Any]:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if variant.resources.cpu is not None:
        requests["cpu"] = variant.resources.cpu
    if variant.resources.memory is not None:
        requests["memory"] = limits["memory"] = variant.resources.memory
    if variant.accelerator is not None:
        cards = str(variant.cards_per_node)
        requests[variant.accelerator.resource] = limits[variant.accelerator.resource] = cards
    return {"requests": requests, "limits": limits}


def _volumes(spec: ModelServiceSpec, variant: Variant) -> list[dict[str, Any]]:
    given = {volume.get("name") for volume in spec.pod.volumes}
    own: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        # A volume of this name in spec.pod.volumes shares a cache between the pods of a node.
        *([] if "cache" in given else [{"name": "cache", "emptyDir": {}}]),
    ]
    if _several(variant):
        own.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    return [*own, *spec.pod.volumes]


def _several(variant: Variant) -> bool:
    """Whether the engine's processes talk through shared memory."""
    return variant.cards_per_node > 1


def _node_lost() -> list[dict[str, Any]]:
    return [
        {
            "key": f"node.kubernetes.io/{state}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": NODE_LOST_S,
        }
        for state in ("not-ready", "unreachable")
    ]


def _apart(owner: Owner, variant: Variant) -> dict[str, Any]:
    """Spread replicas over machines where there is room, so that losing one costs least."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {SERVICE_LABEL: owner.name, VARIANT_LABEL: variant.name}},
    }
    return {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "podAffinityTerm": term}
            ]
        }
    }


def _endpoint(owner: Owner, spec: ModelServiceSpec) -> str:
    """Return what a gateway must know of the pod, as JSON."""
    said: dict[str, object] = {"port": ENGINE_PORT, "runtime_port": RUNTIME_PORT}
    said["models"] = [served_name(owner, spec)]  # so that one not ready yet is no unknown model
    if spec.engine.kv_events:
        said |= {"kv_events_port": EVENTS_PORT, "kv_replay_port": REPLAY_PORT}
    if spec.engine.kind is Engine.SIMULATED:
        said["simulated"] = True
    if spec.lora is not None:
        said["adapter_room"] = spec.lora.max_cpu_loras
    return orjson.dumps(said).decode()


def _without_none(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not None}
