"""The sidecar's metrics: an engine's own under names that no engine program decides.

Read on scrape, from one fresh page of the engine. Registers with a Prometheus registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headrace.runtime.metrics_text import EngineReport
from headrace.service.metrics import MetricSpec
from headrace.service.telemetry import Telemetry

RUNTIME_METRICS: Final[Sequence[MetricSpec]] = (
    MetricSpec(
        "headrace_engine_up",
        "gauge",
        "",
        "1 if the engine's page was read for this scrape, else 0.",
    ),
    MetricSpec(
        "headrace_engine_ready",
        "gauge",
        "",
        "1 while the engine has generated a token since it started and is not draining, else 0.",
    ),
    MetricSpec("headrace_engine_draining", "gauge", "", "1 while the engine drains, else 0."),
    MetricSpec(
        "headrace_engine_running_requests", "gauge", "requests", "Sequences in the engine's batch."
    ),
    MetricSpec(
        "headrace_engine_waiting_requests", "gauge", "requests", "Sequences queued in the engine."
    ),
    MetricSpec("headrace_engine_kv_used_ratio", "gauge", "0 to 1", "Share of the KV cache in use."),
    MetricSpec(
        "headrace_engine_prompt_tokens_total",
        "counter",
        "tokens",
        "Prompt tokens of requests, computed or found; from 0 again when the engine restarts.",
    ),
    MetricSpec(
        "headrace_engine_output_tokens_total", "counter", "tokens", "Tokens generated, likewise."
    ),
    MetricSpec(
        "headrace_engine_prefix_query_tokens_total",
        "counter",
        "tokens",
        "Prompt tokens looked up in the prefix cache, likewise.",
    ),
    MetricSpec(
        "headrace_engine_prefix_hit_tokens_total",
        "counter",
        "tokens",
        "Of them, those found, likewise.",
    ),
    MetricSpec(
        "headrace_engine_preemptions_total",
        "counter",
        "sequences",
        "Sequences put back to be computed again, likewise.",
    ),
    MetricSpec(
        "headrace_engine_adapters", "gauge", "adapters", "Adapters that the engine has loaded."
    ),
    MetricSpec(
        "headrace_artifact_fetches_total",
        "counter",
        "artifacts",
        "Fetches that have ended: cached (nothing was read), fetched, or failed.",
        ("scheme", "result"),
    ),
    MetricSpec(
        "headrace_artifact_bytes_total", "counter", "bytes", "Bytes downloaded.", ("scheme",)
    ),
    MetricSpec(
        "headrace_artifact_progress_ratio",
        "gauge",
        "0 to 1",
        "How far a fetch is that is going on; absent before and after.",
        ("artifact",),
    ),
    MetricSpec(
        "headrace_artifact_cache_bytes", "gauge", "bytes", "Size of the node's cache of artifacts."
    ),
    MetricSpec(
        "headrace_kv_relay_batches_total",
        "counter",
        "batches",
        "KV event batches passed on; those that had to be asked for again, too (repaired).",
        ("kind",),
    ),
    MetricSpec(
        "headrace_kv_relay_gaps_total",
        "counter",
        "gaps",
        "Holes in the engine's KV events that its replay did not fill.",
    ),
)

_GAUGES: Final = (
    ("headrace_engine_running_requests", "running"),
    ("headrace_engine_waiting_requests", "waiting"),
    ("headrace_engine_kv_used_ratio", "kv_used_ratio"),
)
_COUNTERS: Final = (
    ("headrace_engine_prompt_tokens_total", "prompt_tokens"),
    ("headrace_engine_output_tokens_total", "output_tokens"),
    ("headrace_engine_prefix_query_tokens_total", "prefix_queries_tokens"),
    ("headrace_engine_prefix_hit_tokens_total", "prefix_hits_tokens"),
    ("headrace_engine_preemptions_total", "preemptions"),
)


def show(telemetry: Telemetry, report: EngineReport | None) -> None:
    """Put what the engine's page said in the place of what an earlier one said; None: unread."""
    telemetry.gauge("headrace_engine_up").labels().set(float(report is not None))
    for name, attribute in _GAUGES:
        value = None if report is None else getattr(report, attribute)
        if value is None:
            telemetry.gauge(name).forget()
        else:
            telemetry.gauge(name).labels().set(value)
    for name, attribute in _COUNTERS:
        if report is None:
            telemetry.counter(name).forget()
        else:
            telemetry.counter(name).labels().value = float(getattr(report, attribute))
