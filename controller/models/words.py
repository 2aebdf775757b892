"""Labels, annotations and ports that the controller, the gateway and operators share. Pure."""

from __future__ import annotations

from typing import Final

MANAGER: Final = "headrace-controller"
"""Field manager, and who events are from."""

SERVICE_LABEL: Final = "headrace.dev/model-service"
VARIANT_LABEL: Final = "headrace.dev/variant"
ROLE_LABEL: Final = "headrace.dev/role"
REVISION_LABEL: Final = "headrace.dev/revision"
MANAGED_BY: Final = ("app.kubernetes.io/managed-by", "headrace")
ENDPOINT_ANNOTATION: Final = "headrace.dev/endpoint"

ENGINE_PORT: Final = 8_000
RUNTIME_PORT: Final = 8_081
EVENTS_PORT: Final = 5_557
REPLAY_PORT: Final = 5_558

PICKER: Final = "headrace-endpoint-picker"
PICKER_PORT: Final = 9_002
"""What an InferencePool must name as its endpoint picker, at the Inference Extension's port."""

ENGINE: Final = "engine"
RUNTIME: Final = "runtime"
"""Names of a pod's containers."""

CACHE_FOLDER: Final = "/var/cache/headrace"
"""Where sidecar and engine both see artifacts."""
