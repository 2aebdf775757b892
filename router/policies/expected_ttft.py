"""Send the request where its first token is expected soonest: the default. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from typing_extensions import override

from headrace.core.request import RouteRequest
from router.policy import TIME_UNIT, Candidate, Policy, Terms
from router.speed import token_pairs

STALL_RATIO: Final = 0.3
"""Milliseconds charged per millisecond of our prefill and sequence decoding there, where another
endpoint could compute the prompt: no token of theirs comes meanwhile. Counted in full it would make
a first token wait for seconds to spare fifty replies that many milliseconds; see
docs/policies/disaggregation.md for what other weights give."""

PRESSURE_MS: Final = 600.0
"""Weight of the barrier ``u^2 / (1 - u)`` on KV use ``u``: an endpoint about to preempt looks as
expensive as it is, and before that its decode steps, which read all KV in use, take longer.
SMG's ``least_load`` has 150 ``u / (1 - u)``. In the twin the square, which leaves endpoints with
room alone, lowers mean TTFT by up to 20 % where prompts are short, at equal goodput; weights of 600
and 1,000 give the same within 2 %."""

FULL_RATIO: Final = 0.98
"""KV use at which the barrier stops growing, so that costs stay finite when all are full."""


NEAR_RATIO: Final = 0.005
"""What is measured is not more exact than that. Chance among near costs keeps gateway replicas that
believe the same from choosing the same, and equal idle endpoints from being used in the order of
their measuring errors."""


class ExpectedTtft(Policy):
    """Costs in milliseconds.

    Queue ahead + adapter load + transfer + prefill of the miss beside what decodes there + harm to
    that + what a full KV cache does to all.
    """

    unit = TIME_UNIT
    holds = True
    near_ratio = NEAR_RATIO

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        prompt_tokens = request.prompt_tokens
        # pairs, where there are any, come last
        stall_ratio = STALL_RATIO if candidates and candidates[-1].prefill_id is not None else 0.0
        return [time_terms(prompt_tokens, candidate, stall_ratio) for candidate in candidates]


def time_terms(prompt_tokens: int, c: Candidate, stall_ratio: float = 0.0) -> Terms:
    """Return the cost of one candidate in milliseconds.

    Args:
        prompt_tokens: The prompt's length.
        c: The candidate.
        stall_ratio: Weight of the milliseconds for which the prefill holds up each reply there.

    """
    miss = max(0.0, prompt_tokens - c.cached_tokens)
    pairs = token_pairs(miss, c.cached_tokens)
    prefill = c.fixed_ms + miss * c.per_token_ms + pairs * c.per_pair_ms
    harm = 0.0 if c.prefill_id is not None else stall_ratio * prefill * c.decoding
    used = min(FULL_RATIO, (c.resident_tokens + prompt_tokens) / c.kv_tokens)
    pressure = PRESSURE_MS * used * used / (1.0 - used)
    return Terms(
        c.endpoint_id,
        c.queued_ms + c.load_ms + c.transfer_ms + prefill + harm + pressure,
        (
            ("queue", c.queued_ms),
            ("adapter", c.load_ms),
            ("transfer", c.transfer_ms),
            ("prefill", prefill),
            ("decode", harm),
            ("kv", pressure),
        ),
        c.prefill_id,
    )
