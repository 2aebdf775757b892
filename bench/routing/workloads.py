"""The workloads: windows of public traces at the rate that a cell asks for.

A seed picks the window of a trace (and jitter, sessions, prefixes), so seeds are different parts
of the same traffic, not the same requests with other ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

from bench.routing.fleets import context_tokens
from headrace.core.slo import SloTarget
from headrace.simulator.agents import AgentTrace, load_agents, replay_agents
from headrace.simulator.sessions import PrefixModel, with_sessions
from headrace.simulator.trace import TraceRequest, load_trace
from headrace.twin.report import offered_span_s

TRACES: Final = Path("../shared/traces")

AZURE_PREFIXES: Final = PrefixModel(0.7, think_s=2.0, seconds_per_output_token=0.015)
"""Stated, not measured. Real pauses are longer, but a run lasts well under a minute: what counts
is how much other traffic passes between two turns, and that grows with the rate."""

TPOT_LIMIT_S: Final = 0.05

Build = Callable[[Path, int, float, int], list[TraceRequest]]
"""From the file or folder, a seed, requests per second and how many."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One trace as it is replayed.

    Attributes:
        path: File or folder under ``TRACES``.
        count: Requests of one run.
        ttft_limit_s: Target for the first token; longer for longer prompts, as users bear it.
        build: Makes them.
        note: What a reader must know of it.

    """

    path: str
    count: int
    ttft_limit_s: float
    build: Build
    note: str

    @property
    def slo(self) -> SloTarget:
        """The targets that goodput is judged by."""
        return SloTarget(ttft_s=self.ttft_limit_s, tpot_s=TPOT_LIMIT_S)


@lru_cache(maxsize=1)
def _recorded(path: Path, seed: int) -> Sequence[TraceRequest]:
    """A trace without what some engine could not hold; one at a time is kept."""
    limit = context_tokens()
    return [r for r in load_trace(path, seed) if r.prompt_tokens + r.output_tokens <= limit]


@lru_cache(maxsize=1)
def _sessions(path: Path) -> AgentTrace:
    return load_agents(path)


def at_rate(requests: Sequence[TraceRequest], rate_rps: float) -> list[TraceRequest]:
    """Return ``requests`` from time 0 with all gaps scaled so that they come at ``rate_rps``."""
    scale = len(requests) / rate_rps / offered_span_s(requests)
    start_s = requests[0].arrival_s
    return [replace(one, arrival_s=(one.arrival_s - start_s) * scale) for one in requests]


def _window(path: Path, seed: int, rate_rps: float, count: int) -> list[TraceRequest]:
    """A part of a trace that begins anywhere, with its gaps scaled."""
    trace = _recorded(path, seed)
    start = Random(f"window/{seed}").randrange(max(1, len(trace) - count))
    return at_rate(trace[start : start + count], rate_rps)


def _azure(path: Path, seed: int, rate_rps: float, count: int) -> list[TraceRequest]:
    return with_sessions(_window(path, seed, rate_rps, count), AZURE_PREFIXES, seed)


def _agents(path: Path, seed: int, rate_rps: float, count: int) -> list[TraceRequest]:
    made = replay_agents(_sessions(path), seed=seed, rate_rps=rate_rps, count=count)
    return at_rate(made, rate_rps)  # chance alone may have it a few per cent off


WORKLOADS: Final[Mapping[str, Workload]] = MappingProxyType(
    {
        "mooncake-conversation": Workload(
            "mooncake/conversation_trace.jsonl",
            1_000,
            2.0,
            _window,
            "Mooncake conversation: its own 512-token hash ids; arrivals spread inside the "
            "recorder's 3 s quantum, then all gaps scaled.",
        ),
        "mooncake-synthetic": Workload(
            "mooncake/synthetic_trace.jsonl",
            1_000,
            2.0,
            _window,
            "Mooncake synthetic: its own 512-token hash ids; all gaps scaled; prompts beyond the "
            "model's 131,072 tokens left out.",
        ),
        "azure-conversation": Workload(
            "azure2023/AzureLLMInferenceTrace_conv.csv",
            4_000,
            0.5,
            _azure,
            "Azure 2023 conversation: recorded lengths and arrivals (gaps scaled); prefixes are a "
            f"stated model, as the trace has none: a request continues, with chance "
            f"{AZURE_PREFIXES.continue_ratio:g}, the longest of 8 idle conversations that fits its "
            f"prompt, no sooner than {AZURE_PREFIXES.seconds_per_output_token:g} s per output "
            f"token plus {AZURE_PREFIXES.think_s:g} s (exponential) after the turn before; each "
            f"conversation begins with one of {AZURE_PREFIXES.preambles} system prompts of "
            f"{AZURE_PREFIXES.preamble_tokens} tokens.",
        ),
        "agents-miniswe": Workload(
            "agents/miniswe",
            2_500,
            0.5,
            _agents,
            "mini-swe-agent: recorded text at 4 bytes per token, blocks named by content; "
            "sessions begin as a Poisson process and are gone through again as fresh sessions; "
            "a turn comes after the recorded gap, or 0.03 s per output token if that is longer.",
        ),
        "agents-taubench": Workload(
            "agents/taubench",
            5_000,
            0.25,
            _agents,
            "tau-bench: as mini-swe-agent. The recording has neither system prompts nor tool "
            "calls, so prompts are short; an empty output counts as 32 tokens.",
        ),
    }
)


def missing(name: str) -> bool:
    """Return whether the trace is not on this machine."""
    return not (TRACES / WORKLOADS[name].path).exists()


@lru_cache(maxsize=1)
def requests_of(name: str, seed: int, rate_rps: float, count: int) -> Sequence[TraceRequest]:
    """Return ``count`` requests of a workload at ``rate_rps``; the latest answer is kept."""
    workload = WORKLOADS[name]
    return workload.build(TRACES / workload.path, seed, rate_rps, count)
