"""Kinds of objects, and where they lie in the API. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Object = Mapping[str, Any]
"""An object as the API server tells it."""

Key = tuple[str, str]
"""Namespace ("" for kinds that lie in none) and name."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object.

    Attributes:
        group: "" for the core group.
        version: Such as ``v1``.
        plural: Its name in paths.
        kind: Its name in objects.
        namespaced: Whether its objects lie in namespaces.

    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As in an object's ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def title(self) -> str:
        """As ``kubectl`` names it: ``plural.group``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of an object, or of all of them.

        Args:
            namespace: "" for all namespaces.
            name: "" for the collection.
            subresource: Such as ``status``.

        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        return "/".join([f"{root}{inside}/{self.plural}", *filter(None, (name, subresource))])


PODS: Final = Resource("", "v1", "pods", "Pod")
SERVICES: Final = Resource("", "v1", "services", "Service")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
CONTROLLER_REVISIONS: Final = Resource("apps", "v1", "controllerrevisions", "ControllerRevision")
PDBS: Final = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
RAY_CLUSTERS: Final = Resource("ray.io", "v1", "rayclusters", "RayCluster")
INFERENCE_POOLS: Final = Resource(
    "inference.networking.k8s.io", "v1", "inferencepools", "InferencePool"
)
MODEL_SERVICES: Final = Resource("headrace.dev", "v1alpha1", "modelservices", "ModelService")
LORA_ADAPTERS: Final = Resource("headrace.dev", "v1alpha1", "loraadapters", "LoraAdapter")


def key_of(obj: Object) -> Key:
    """Return what an object is called."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(obj: Object) -> str:
    """Return an object's resource version; opaque, equal or not."""
    return str(obj["metadata"].get("resourceVersion", ""))
