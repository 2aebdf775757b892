"""The one table of metrics, and the object that holds them. Registers with a Prometheus registry.

Add a metric by adding a row to ``METRICS``; ``docs/operate/metrics.md`` is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from typing_extensions import override

from headrace.service.metrics import (
    Counter,
    Family,
    Gauge,
    Histogram,
    MetricSpec,
    exported,
)

TTFT_BUCKETS_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
"""Those of vLLM's ``vllm:time_to_first_token_seconds`` (0.32), so that the two can be compared."""

TPOT_BUCKETS_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2),
    *(0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
"""Those of vLLM's ``vllm:inter_token_latency_seconds``, with finer ones below 10 ms."""

E2E_BUCKETS_S: Final = (
    *(0.005, 0.025, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0),
    *(20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0),
)
"""Those of vLLM's ``vllm:e2e_request_latency_seconds``, with finer ones below 0.3 s."""

DECISION_BUCKETS_S: Final = (
    *(5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 0.1),
)

ERROR_BUCKETS_S: Final = (
    *(-10.0, -5.0, -2.0, -1.0, -0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0.0),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)

SHARING_BUCKETS_S: Final = (
    *(2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0),
)

METRICS: Final[Sequence[MetricSpec]] = (
    MetricSpec(
        "headrace_requests_total",
        "counter",
        "requests",
        "Requests that have ended, by how. The outcomes sum to all requests ever received.",
        ("model", "outcome"),
    ),
    MetricSpec(
        "headrace_ttft_seconds",
        "histogram",
        "seconds",
        "Arrival at the gateway to the first streamed token; streamed requests that were served.",
        ("model",),
        TTFT_BUCKETS_S,
    ),
    MetricSpec(
        "headrace_tpot_seconds",
        "histogram",
        "seconds",
        "Mean time per output token after the first; streamed requests with two tokens or more.",
        ("model",),
        TPOT_BUCKETS_S,
    ),
    MetricSpec(
        "headrace_e2e_seconds",
        "histogram",
        "seconds",
        "Arrival at the gateway to the end of the reply; requests that were served.",
        ("model",),
        E2E_BUCKETS_S,
    ),
    MetricSpec(
        "gen_ai_server_time_to_first_token_seconds",
        "histogram",
        "seconds",
        "headrace_ttft_seconds under OpenTelemetry's name.",
        ("gen_ai_request_model",),
        TTFT_BUCKETS_S,
    ),
    MetricSpec(
        "gen_ai_server_time_per_output_token_seconds",
        "histogram",
        "seconds",
        "headrace_tpot_seconds under OpenTelemetry's name.",
        ("gen_ai_request_model",),
        TPOT_BUCKETS_S,
    ),
    MetricSpec(
        "headrace_adapter_loads_total",
        "counter",
        "loads",
        "Adapters that endpoints were made to load, by whether they did: loaded or failed.",
        ("model", "result"),
    ),
    MetricSpec(
        "headrace_adapter_unloads_total",
        "counter",
        "unloads",
        "Adapters that endpoints were made to forget: for room, cold, removed, or orphaned.",
        ("reason",),
    ),
    MetricSpec(
        "headrace_adapter_load_seconds",
        "histogram",
        "seconds",
        "From deciding that an endpoint is to load an adapter until it serves it.",
        (),
        TTFT_BUCKETS_S,
    ),
    MetricSpec(
        "headrace_endpoint_adapters",
        "gauge",
        "adapters",
        "Adapters that the gateway had an endpoint load, and that it still has.",
        ("endpoint",),
    ),
    MetricSpec(
        "headrace_prompt_tokens_total",
        "counter",
        "tokens",
        "Prompt tokens, as the engines reported them.",
        ("model",),
    ),
    MetricSpec(
        "headrace_cached_tokens_total",
        "counter",
        "tokens",
        "Prompt tokens that engines did not compute because their KV was cached.",
        ("model",),
    ),
    MetricSpec(
        "headrace_output_tokens_total",
        "counter",
        "tokens",
        "Tokens generated, as the engines reported them.",
        ("model",),
    ),
    MetricSpec(
        "headrace_inflight_requests",
        "gauge",
        "requests",
        "Requests that the gateway has admitted and not yet ended.",
    ),
    MetricSpec(
        "headrace_endpoint_inflight_requests",
        "gauge",
        "requests",
        "Requests sent to an endpoint that have not ended. Endpoint names are ours and bounded.",
        ("endpoint",),
    ),
    MetricSpec(
        "headrace_endpoints",
        "gauge",
        "endpoints",
        "Endpoints known to the gateway, by health.",
        ("health",),
    ),
    MetricSpec(
        "headrace_endpoints_old",
        "gauge",
        "0 or 1",
        "1 while the list of endpoints may be old: the file, fleet, Ray or API server that tells "
        "it is away, or tells what cannot be used. The last good list stays in use.",
    ),
    MetricSpec(
        "headrace_retries_total",
        "counter",
        "attempts",
        "Attempts that failed, or were called back, with no byte sent, and were repeated, by why.",
        ("reason",),
    ),
    MetricSpec(
        "headrace_split_requests_total",
        "counter",
        "requests",
        "Requests of which one engine was to compute the prompt and another the reply, by how far "
        "that went: handed over, or failed at the first or at the second and then sent to one.",
        ("result",),
    ),
    MetricSpec(
        "headrace_decision_seconds",
        "histogram",
        "seconds",
        "Time to choose an endpoint, in the gateway's own process.",
        (),
        DECISION_BUCKETS_S,
    ),
    MetricSpec(
        "headrace_held_requests_total",
        "counter",
        "requests",
        "Requests that had to wait in the gateway because every endpoint was full.",
    ),
    MetricSpec(
        "headrace_held_requests",
        "gauge",
        "requests",
        "Requests waiting in the gateway because every endpoint is full.",
    ),
    MetricSpec(
        "headrace_prefix_blocks",
        "gauge",
        "blocks",
        "KV blocks that an endpoint is known by its events, or else guessed, to hold.",
        ("endpoint",),
    ),
    MetricSpec(
        "headrace_kv_events_synced",
        "gauge",
        "",
        "1 while the index follows an endpoint's KV events without a hole, else 0.",
        ("endpoint",),
    ),
    MetricSpec(
        "headrace_kv_event_age_seconds",
        "gauge",
        "seconds",
        "Since an endpoint's last batch of KV events came. An idle engine sends none; one that is "
        "busy and silent is not being followed.",
        ("endpoint",),
    ),
    MetricSpec(
        "headrace_kv_event_gaps_total",
        "counter",
        "gaps",
        "Holes met in the KV events of endpoints; each is filled by a replay, or ends in a resync.",
    ),
    MetricSpec(
        "headrace_kv_event_resyncs_total",
        "counter",
        "resyncs",
        "Times that an endpoint's index was begun anew, because events were lost for good.",
    ),
    MetricSpec(
        "headrace_tokenised_total",
        "counter",
        "requests",
        "Requests whose prompt was to be tokenised: exact; unsure (nothing says how their engine "
        "reads them); late (more than tokens.limit_ms); full (tokens.waiting); failed (a bug); "
        "unknown (too long, or of a model without a usable tokenizer).",
        ("result",),
    ),
    MetricSpec(
        "headrace_tokenise_seconds",
        "histogram",
        "seconds",
        "What tokenising and hashing a prompt made its request wait; those done in threads only.",
        (),
        DECISION_BUCKETS_S,
    ),
    MetricSpec(
        "headrace_router_predicted_ttft_error_seconds",
        "histogram",
        "seconds",
        "Measured minus predicted time from dispatch to first token; policies that cost in ms.",
        ("model",),
        ERROR_BUCKETS_S,
    ),
    MetricSpec(
        "headrace_shadow_decisions_total",
        "counter",
        "decisions",
        "Decisions that routing.shadow's policy made too: it agreed on the endpoint, or disagreed.",
        ("result",),
    ),
    MetricSpec(
        "headrace_shadow_cost_difference",
        "gauge",
        "the policy's unit",
        "What the shadow policy's choices would have cost more than ours, by the policy in charge, "
        "all together since the start; milliseconds for the default policy.",
    ),
    MetricSpec(
        "headrace_shadow_prompt_tokens_total",
        "counter",
        "tokens",
        "Prompt tokens of the requests that the shadow policy saw, as the router counted them.",
    ),
    MetricSpec(
        "headrace_shadow_cached_tokens_total",
        "counter",
        "tokens",
        "Of them, those believed to be cached where the request went (ours) and where the shadow "
        "policy would have sent it (shadow).",
        ("choice",),
    ),
    MetricSpec(
        "headrace_upstream_connections",
        "gauge",
        "connections",
        "Connections to engines, busy with a request or idle in the pool.",
        ("state",),
    ),
    MetricSpec(
        "headrace_upstream_connects_total",
        "counter",
        "connections",
        "Connections opened to engines; a high rate means that keep-alive does not hold.",
        ("result",),
    ),
    MetricSpec(
        "headrace_store_up",
        "gauge",
        "connections",
        "1 while the store that replicas share (Redis) answers, else 0; absent without one.",
    ),
    MetricSpec(
        "headrace_store_connects_total",
        "counter",
        "connections",
        "Attempts to connect to the store that replicas share.",
        ("result",),
    ),
    MetricSpec(
        "headrace_store_dropped_total",
        "counter",
        "messages",
        "Messages to other replicas that were not sent: the store was down, or our queue full.",
        ("reason",),
    ),
    MetricSpec(
        "headrace_router_sharing_lag_seconds",
        "gauge",
        "seconds",
        "How old what we know of another replica's reserves may be: time since its last message.",
        ("replica",),
    ),
    MetricSpec(
        "headrace_router_sharing_delay_seconds",
        "histogram",
        "seconds",
        "From handing a message to the store until it came back to us; as long as to others.",
        (),
        SHARING_BUCKETS_S,
    ),
    MetricSpec(
        "headrace_router_sharing_messages_total",
        "counter",
        "messages",
        "Messages about reserves, by what became of them; gaps and losses are healed by snapshots.",
        ("event",),
    ),
)


class Telemetry(Collector):
    """Every metric of a process. Build one per process (or per test) and pass it on."""

    def __init__(
        self, registry: CollectorRegistry, metrics: Sequence[MetricSpec] = METRICS
    ) -> None:
        self._metrics = metrics
        self._counters: dict[str, Family[Counter]] = {}
        self._gauges: dict[str, Family[Gauge]] = {}
        self._histograms: dict[str, Family[Histogram]] = {}
        for spec in metrics:
            if spec.kind == "counter":
                self._counters[spec.name] = Family(spec, Counter)
            elif spec.kind == "gauge":
                self._gauges[spec.name] = Family(spec, Gauge)
            else:
                self._histograms[spec.name] = Family(spec, Histogram)
        registry.register(self)

    def counter(self, name: str) -> Family[Counter]:
        """Return the counter of that name; KeyError when the table has none."""
        return self._counters[name]

    def gauge(self, name: str) -> Family[Gauge]:
        """Return the gauge of that name; KeyError when the table has none."""
        return self._gauges[name]

    def histogram(self, name: str) -> Family[Histogram]:
        """Return the histogram of that name; KeyError when the table has none."""
        return self._histograms[name]

    @override
    def collect(self) -> Iterable[Metric]:
        families: dict[str, Family[Counter] | Family[Gauge] | Family[Histogram]] = {
            **self._counters,
            **self._gauges,
            **self._histograms,
        }
        return [exported(families[spec.name]) for spec in self._metrics]
