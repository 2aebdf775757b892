"""What a routing policy sees and must return. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from headrace.core.ids import EndpointId
from headrace.core.request import RouteRequest


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint and all that is known of it for one decision.

    Attributes:
        endpoint_id: Which endpoint.
        cached_tokens: Leading prompt tokens it is believed to hold; <= the prompt's length.
        inflight: Requests we sent there that have not ended.
        decoding: Those of them that have had their first token.
        queued_ms: Expected milliseconds until the prompts we sent there are computed,
            less what it must have computed since we last heard of it.
        resident_tokens: KV tokens that the requests in flight there hold or will need.
        kv_tokens: KV tokens it can hold in all.
        fixed_ms: What any prefill costs there however short, as measured.
        per_token_ms: What each uncached prompt token costs there on top of it, as measured.

    """

    endpoint_id: EndpointId
    cached_tokens: float
    inflight: int
    decoding: int
    queued_ms: float
    resident_tokens: float
    kv_tokens: int
    fixed_ms: float
    per_token_ms: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What one endpoint would cost; the sum is what the policy minimises.

    ``unit`` says in what: milliseconds for the default policy, so that a decision can be read as
    "expected first token in 212 ms: 180 queue + 32 prefill".
    """

    endpoint_id: EndpointId
    cost: float
    parts: tuple[tuple[str, float], ...] = ()


class Policy(Protocol):
    """Costs endpoints for one request; the lowest is chosen and ties are broken by ``rng``.

    Implementations take no clock and do no I/O. Whatever memory one needs (a cursor) is its own.
    """

    unit: str

    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        """Return one ``Terms`` per candidate, in the order given; costs are finite and >= 0."""
        ...
