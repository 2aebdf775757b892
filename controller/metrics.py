"""The controller's metrics: one table, as for every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headrace.service.metrics import MetricSpec

CONTROLLER_METRICS: Final[Sequence[MetricSpec]] = (
    MetricSpec(
        "headrace_reconciles_total",
        "counter",
        "services",
        "Looks at a service and what came of them: done, or failed at the API server.",
        ("result",),
    ),
    MetricSpec(
        "headrace_reconcile_seconds",
        "histogram",
        "seconds",
        "One look at a service, and the writes that followed from it.",
        (),
        (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    ),
    MetricSpec(
        "headrace_queued_services",
        "gauge",
        "services",
        "Services that wait to be looked at now.",
    ),
    MetricSpec(
        "headrace_leading",
        "gauge",
        "1 or 0",
        "Whether this controller is the one that acts.",
    ),
    MetricSpec(
        "headrace_kube_calls_total",
        "counter",
        "calls",
        "Calls to the API server, by what they do; a watch is one call.",
        ("verb", "resource"),
    ),
)
