"""What is asked: chats and agents on one fleet. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from headrace.simulator.synthetic import WORKLOADS, synthesize
from headrace.simulator.trace import TraceRequest

SHARES: Final[Mapping[str, float]] = MappingProxyType({"conversation": 0.5, "agents": 0.5})
"""Synthetic workloads by their share of the requests."""

BEFORE_S: Final = 240.0
"""What is left out at the beginning: about twice as long as a session of agents lasts."""

_APART: Final = 1 << 40  # more than the hash ids of one synthetic workload


def mixed(rate_rps: float, duration_s: float, seed: int) -> list[TraceRequest]:
    """Return ``duration_s`` engine seconds of all workloads together, by arrival from 0.

    They are cut out of a longer time, so that from the first second on there are sessions in
    every turn: begun at once, it would take minutes until the rate is what was asked for. Hash ids
    are kept apart: without that the system prompts of one workload would begin with another's.
    """
    requests: list[TraceRequest] = []
    for number, (name, share) in enumerate(SHARES.items()):
        offset = number * _APART
        requests += (
            replace(
                request,
                arrival_s=request.arrival_s - BEFORE_S,
                hash_ids=tuple(offset + each for each in request.hash_ids),
                output_hash_ids=tuple(offset + each for each in request.output_hash_ids),
            )
            for request in synthesize(name, seed, share * rate_rps, BEFORE_S + duration_s)
            if request.arrival_s >= BEFORE_S
        )
    return sorted(requests, key=lambda request: request.arrival_s)


def system_tokens(request: TraceRequest) -> int:
    """Return how many of a prompt's first tokens are its application's system prompt."""
    name = (request.session or "").rpartition("-")[0]
    shape = WORKLOADS.get(name)
    return 0 if shape is None else min(shape.preamble_tokens, request.prompt_tokens)
