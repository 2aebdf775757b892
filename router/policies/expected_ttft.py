"""Send the request where its first token is expected soonest: the default. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from typing_extensions import override

from headrace.core.request import RouteRequest
from router.policy import Candidate, Policy, Terms

DECODE_HARM_MS: Final = 2.0
"""Milliseconds charged per sequence already decoding there: our prefill delays its tokens, and ours
will share its steps. Small against any queue; it spreads requests that nothing else tells apart."""

PRESSURE_MS: Final = 150.0
"""Weight of the barrier ``u / (1 - u)`` on KV use ``u``, so that an endpoint about to preempt looks
as expensive as it is. The form and weight are those of SMG's ``least_load`` (0.15 s)."""

FULL_RATIO: Final = 0.98
"""KV use at which the barrier stops growing, so that costs stay finite when all are full."""


class ExpectedTtft(Policy):
    """Costs in milliseconds: queue ahead + prefill of the miss + harm + risk of preemption."""

    unit = "ms"

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        return [self._terms(request, candidate) for candidate in candidates]

    @staticmethod
    def _terms(request: RouteRequest, c: Candidate) -> Terms:
        queue = c.queued_ms
        miss = max(0.0, request.prompt_tokens - c.cached_tokens)
        prefill = c.fixed_ms + miss * c.per_token_ms
        harm = DECODE_HARM_MS * c.decoding
        used = min(FULL_RATIO, (c.resident_tokens + request.prompt_tokens) / c.kv_tokens)
        pressure = PRESSURE_MS * used / (1.0 - used)
        return Terms(
            c.endpoint_id,
            queue + prefill + harm + pressure,
            (("queue", queue), ("prefill", prefill), ("decode", harm), ("kv", pressure)),
        )
