"""Reads an engine's ``/metrics`` page: load, counters and cache geometry. Pure.

Not a general parser: a page is 50 KB and is read every second from every engine, so only the lines
that are wanted are looked at (about 0.2 ms a page). What an engine does not report, or reports as
something that is not a number, is None or 0 here and never an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from headrace.core.endpoint import EngineLoad


@dataclass(frozen=True, slots=True)
class Names:
    """What one engine calls the series we read; ``total`` ones are counters."""

    running: str
    waiting: str
    kv_used_ratio: str
    prefix_queries: str
    prefix_hits: str
    prompt_tokens: str
    output_tokens: str
    preemptions: str
    finished: str
    steps: str


VLLM: Final = Names(
    running="vllm:num_requests_running",
    waiting="vllm:num_requests_waiting",
    kv_used_ratio="vllm:kv_cache_usage_perc",
    prefix_queries="vllm:prefix_cache_queries_total",
    prefix_hits="vllm:prefix_cache_hits_total",
    prompt_tokens="vllm:prompt_tokens_total",
    output_tokens="vllm:generation_tokens_total",
    preemptions="vllm:num_preemptions_total",
    finished="vllm:request_success_total",
    steps="vllm:iteration_tokens_total_count",
)
"""Source: a page of vLLM 0.32.0, tests/golden/runtime/. The ratio is 0 to 1 despite its name. Our
simulated engine uses the same names."""

SGLANG: Final = Names(
    running="sglang:num_running_reqs",
    waiting="sglang:num_queue_reqs",
    kv_used_ratio="sglang:token_usage",
    prefix_queries="",
    prefix_hits="sglang:cached_tokens_total",
    prompt_tokens="sglang:prompt_tokens_total",
    output_tokens="sglang:generation_tokens_total",
    preemptions="sglang:num_retracted_requests_total",
    finished="",
    steps="",
)
"""Source: docs.sglang.io, "Production Metrics" (its sample page is in tests/golden/runtime/)."""

CACHE_CONFIG: Final = "vllm:cache_config_info"
LORA_INFO: Final = "vllm:lora_requests_info"

_LABEL: Final = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One reading of an engine's page; counts since it started, data-parallel ranks added up.

    Attributes:
        running: Sequences in the batch; None when the engine does not say.
        waiting: Sequences queued in the engine; likewise.
        kv_used_ratio: 0 to 1, the mean over ranks; likewise.
        prefix_queries_tokens: Prompt tokens looked up in the prefix cache.
        prefix_hits_tokens: Those of them found.
        prompt_tokens: Prompt tokens of requests, found or computed.
        output_tokens: Tokens generated.
        preemptions: Sequences put back to be computed again.
        steps: Forward passes; 0 when it does not say.
        finished: Requests ended, by the engine's own reason, in order of reason.
        block_tokens: Tokens of one KV block; None when it does not say.
        kv_tokens: Tokens its KV cache holds; None when it does not say.
        adapters_running: Names of adapters with a running request.

    """

    running: int | None = None
    waiting: int | None = None
    kv_used_ratio: float | None = None
    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    finished: tuple[tuple[str, int], ...] = ()
    block_tokens: int | None = None
    kv_tokens: int | None = None
    adapters_running: tuple[str, ...] = ()

    @property
    def progress(self) -> int:
        """A count that grows whenever the engine does anything at all."""
        return self.steps + self.prompt_tokens + self.output_tokens

    def load(self, at_s: float) -> EngineLoad | None:
        """Return the load as routing wants it, true at ``at_s``; None unless all of it is known."""
        if self.running is None or self.waiting is None or self.kv_used_ratio is None:
            return None
        return EngineLoad(self.running, self.waiting, self.kv_used_ratio, at_s)

    def ended(self, reason: str) -> int:
        """Return how many requests ended for ``reason`` (``stop``, ``length``, ``abort``…)."""
        return dict(self.finished).get(reason, 0)


def parse_metrics(text: str, dp_rank: int | None = None) -> EngineReport:
    """Read a page in Prometheus text form, from vLLM, SGLang or the simulated engine.

    Args:
        text: The page.
        dp_rank: Read only what is said of this data parallel rank (vLLM's label ``engine``).

    """
    if dp_rank is not None:
        label = f'engine="{dp_rank}"'
        text = "\n".join(line for line in text.split("\n") if label in line)
    names = SGLANG if "\nsglang:" in text else VLLM
    used = list(_values(text, names.kv_used_ratio))
    block_tokens, kv_tokens = _geometry(text)
    return EngineReport(
        running=_total(text, names.running),
        waiting=_total(text, names.waiting),
        kv_used_ratio=min(1.0, max(0.0, math.fsum(used) / len(used))) if used else None,
        prefix_queries_tokens=_total(text, names.prefix_queries or names.prompt_tokens) or 0,
        prefix_hits_tokens=_total(text, names.prefix_hits) or 0,
        prompt_tokens=_total(text, names.prompt_tokens) or 0,
        output_tokens=_total(text, names.output_tokens) or 0,
        preemptions=_total(text, names.preemptions) or 0,
        steps=_total(text, names.steps) or 0,
        finished=_by_label(text, names.finished, "finished_reason"),
        block_tokens=block_tokens,
        kv_tokens=kv_tokens
        if kv_tokens is not None
        else _total(text, "sglang:max_total_num_tokens"),
        adapters_running=_adapters(text),
    )


def _series(text: str, name: str) -> Iterator[tuple[str, float]]:
    """Yield the label text and the finite value of each line of exactly that series."""
    if not name:
        return
    at = 0 if text.startswith(name) else _after(text, "\n" + name, 0)
    while at >= 0:
        end = text.find("\n", at)
        line = text[at : end if end >= 0 else len(text)]
        rest = line[len(name) :]
        if rest[:1] in ("{", " "):
            labels, _, value = rest.rpartition("}") if rest[0] == "{" else ("", "", rest)
            number = _number(value)
            if number is not None:
                yield labels[1:], number
        at = _after(text, "\n" + name, at + len(name))


def _after(text: str, line_start: str, at: int) -> int:
    """Return where the next line beginning so starts, or -1."""
    found = text.find(line_start, at)
    return found + 1 if found >= 0 else -1


def _number(text: str) -> float | None:
    """Return the value at the head of ``text`` (a timestamp may follow), or None."""
    words = text.split(None, 1)
    try:
        value = float(words[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _values(text: str, name: str) -> Iterator[float]:
    return (value for _, value in _series(text, name))


def _total(text: str, name: str) -> int | None:
    values = list(_values(text, name))
    return max(0, round(math.fsum(values))) if values else None


def _labels(text: str) -> dict[str, str]:
    return dict(_LABEL.findall(text))


def _by_label(text: str, name: str, label: str) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for labels, value in _series(text, name):
        key = _labels(labels).get(label)
        if key is not None:
            counts[key] = counts.get(key, 0) + max(0, round(value))
    return tuple(sorted(counts.items()))


def _geometry(text: str) -> tuple[int | None, int | None]:
    """Return tokens per block, and tokens in all over the ranks that say so."""
    block_tokens: int | None = None
    in_all: int | None = None
    for labels, _ in _series(text, CACHE_CONFIG):
        said = _labels(labels)
        block = _positive(said.get("block_size"))
        blocks = _positive(said.get("num_gpu_blocks"))
        tokens = _positive(said.get("kv_cache_size_tokens"))
        if tokens is None and block is not None and blocks is not None:
            tokens = block * blocks
        block_tokens = block_tokens or block
        if tokens is not None:
            in_all = (in_all or 0) + tokens
    return block_tokens, in_all


def _positive(text: str | None) -> int | None:
    """Return a count of at least 1; the engines write "None" for what they do not know."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        return None
    return int(text) or None


def _adapters(text: str) -> tuple[str, ...]:
    """Return the adapters of the newest series: one is left behind per combination ever seen."""
    newest = max(_series(text, LORA_INFO), key=lambda item: item[1], default=("", 0.0))[0]
    names = _labels(newest).get("running_lora_adapters", "")
    return tuple(sorted(name for name in names.split(",") if name))
