"""What ``/metrics`` of a simulated engine shows: vLLM's names, labels and buckets. Pure.

Source: vLLM 0.32.0, ``vllm/v1/metrics/loggers.py``. Times are wall seconds as a client sees them,
also when the engine runs faster than time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

TTFT_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_S: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_S: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_STEP_TOKENS: Final = tuple(float(1 << power) for power in range(15))
_REASONS: Final = ("stop", "length", "abort", "error", "repetition")


def token_buckets(limit: int) -> tuple[float, ...]:
    """Return 1, 2, 5, 10, 20, 50 ... up to ``limit``."""
    steps = (factor * 10**power for power in range(10) for factor in (1, 2, 5))
    return tuple(float(step) for step in steps if step <= limit)


class Histogram:
    """Counts per bucket; ``counts`` has one more entry than ``bounds``, for what is beyond."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Return the lines of the exposition format."""
        running = 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            running += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {float(running)}'
        yield f"{name}_count{{{labels}}} {float(running)}"
        yield f"{name}_sum{{{labels}}} {self.total}"


class Stats:
    """Running totals of one engine process; the host writes them, ``/metrics`` reads them."""

    def __init__(self, max_model_len: int) -> None:
        self.ttft_s = Histogram(TTFT_S)
        self.itl_s = Histogram(ITL_S)
        self.tpot_s = Histogram(ITL_S)
        self.e2e_s = Histogram(REQUEST_S)
        self.prefill_s = Histogram(REQUEST_S)
        self.decode_s = Histogram(REQUEST_S)
        self.step_tokens = Histogram(_STEP_TOKENS)
        self.prompt_length = Histogram(token_buckets(max_model_len))
        self.output_length = Histogram(token_buckets(max_model_len))
        self.asked_length = Histogram(token_buckets(max_model_len))
        self.ended = dict.fromkeys(_REASONS, 0)
        self.refused = {"max_num_queued_reqs": 0, "max_num_queued_tokens": 0}
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.transferred_tokens = 0
        self.output_tokens = 0


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The engine's side of ``/metrics``, taken when its last step ended, as vLLM's gauges are.

    ``running_adapters`` lists adapters of running requests; ``kv_used_ratio`` is 0 to 1.
    """

    running: int = 0
    waiting: int = 0
    kv_used_ratio: float = 0.0
    preemptions: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    running_adapters: tuple[str, ...] = ()
    adapters_at_s: float = 0.0
    max_loras: int = 0
    lateness_s: float = 0.0
    cache_config: Mapping[str, str] = field(default_factory=dict)


class _Page:
    """Collects families of metrics that share the labels of one engine."""

    def __init__(self, model: str) -> None:
        self.labels = f'engine="0",model_name="{escape(model)}"'
        self.lines: list[str] = []

    def family(self, kind: str, name: str, about: str) -> None:
        self.lines += (f"# HELP {name} {about}", f"# TYPE {name} {kind}")

    def one(self, kind: str, name: str, about: str, value: float) -> None:
        self.family(kind, name, about)
        self.lines.append(f"{name}{{{self.labels}}} {float(value)}")

    def many(self, kind: str, name: str, label: str, values: Mapping[str, float]) -> None:
        self.family(kind, name, f"By {label}.")
        for key, value in values.items():
            self.lines.append(f'{name}{{{self.labels},{label}="{escape(key)}"}} {float(value)}')

    def histogram(self, name: str, about: str, histogram: Histogram) -> None:
        self.family("histogram", name, about)
        self.lines += histogram.lines(name, self.labels)


def escape(value: str) -> str:
    """Return a label value as the exposition format wants it."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def exposition(model: str, facts: EngineFacts, stats: Stats) -> bytes:
    """Return the whole page."""
    page = _Page(model)
    _gauges(page, facts)
    _counters(page, facts, stats)
    for name, about, histogram in (
        ("time_to_first_token_seconds", "Time to first token.", stats.ttft_s),
        ("inter_token_latency_seconds", "Gap between tokens of a request.", stats.itl_s),
        ("request_time_per_output_token_seconds", "Mean gap of a request.", stats.tpot_s),
        ("e2e_request_latency_seconds", "Arrival to last token.", stats.e2e_s),
        ("request_prefill_time_seconds", "Arrival to first token.", stats.prefill_s),
        ("request_decode_time_seconds", "First token to last.", stats.decode_s),
        ("iteration_tokens_total", "Tokens computed per step.", stats.step_tokens),
        ("request_prompt_tokens", "Prompt lengths.", stats.prompt_length),
        ("request_generation_tokens", "Output lengths.", stats.output_length),
        ("request_params_max_tokens", "Caps asked for.", stats.asked_length),
    ):
        page.histogram(f"vllm:{name}", about, histogram)
    _infos(page, facts)
    return ("\n".join(page.lines) + "\n").encode()


def _gauges(page: _Page, facts: EngineFacts) -> None:
    page.one("gauge", "vllm:num_requests_running", "Requests in the batch.", facts.running)
    page.one("gauge", "vllm:num_requests_waiting", "Requests queued.", facts.waiting)
    page.many(
        "gauge",
        "vllm:num_requests_waiting_by_reason",
        "reason",
        {"capacity": facts.waiting, "deferred": 0},
    )
    page.one("gauge", "vllm:kv_cache_usage_perc", "Used share of KV, 0 to 1.", facts.kv_used_ratio)
    page.many(
        "gauge",
        "vllm:engine_sleep_state",
        "sleep_state",
        {"awake": 1, "weights_offloaded": 0, "discard_all": 0},
    )
    page.one(
        "gauge",
        "headrace:simulator_lateness_seconds",
        "Wall seconds by which this engine's steps were shifted for want of CPU.",
        facts.lateness_s,
    )


def _counters(page: _Page, facts: EngineFacts, stats: Stats) -> None:
    computed = stats.prompt_tokens - stats.cached_tokens - stats.transferred_tokens
    for name, about, value in (
        ("num_preemptions_total", "Preemptions.", facts.preemptions),
        ("prefix_cache_queries_total", "Prompt tokens looked up.", facts.prefix_query_tokens),
        ("prefix_cache_hits_total", "Prompt tokens found.", facts.prefix_hit_tokens),
        ("external_prefix_cache_queries_total", "Tokens fetched.", stats.transferred_tokens),
        ("external_prefix_cache_hits_total", "Tokens fetched.", stats.transferred_tokens),
        ("prompt_tokens_total", "Prompt tokens.", stats.prompt_tokens),
        ("generation_tokens_total", "Output tokens.", stats.output_tokens),
    ):
        page.one("counter", f"vllm:{name}", about, value)
    page.many(
        "counter",
        "vllm:prompt_tokens_by_source_total",
        "source",
        {
            "local_compute": max(0, computed),
            "local_cache_hit": stats.cached_tokens,
            "external_kv_transfer": stats.transferred_tokens,
        },
    )
    page.many("counter", "vllm:request_success_total", "finished_reason", stats.ended)
    page.many("counter", "vllm:admission_rejections_total", "reason", stats.refused)


def _infos(page: _Page, facts: EngineFacts) -> None:
    page.family("gauge", "vllm:cache_config_info", "Settings of the KV cache.")
    config = ",".join(f'{key}="{escape(value)}"' for key, value in facts.cache_config.items())
    page.lines.append(f'vllm:cache_config_info{{{config},engine="0"}} 1.0')
    page.family("gauge", "vllm:lora_requests_info", "Adapters of running requests.")
    if facts.max_loras and facts.adapters_at_s:
        names = escape(",".join(facts.running_adapters))
        page.lines.append(
            f'vllm:lora_requests_info{{max_lora="{facts.max_loras}",'
            f'running_lora_adapters="{names}",waiting_lora_adapters="{names}"}} '
            f"{facts.adapters_at_s}"
        )
