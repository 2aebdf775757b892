"""Send the request where its first token is expected soonest: the default. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from typing_extensions import override

from headrace.core.request import RouteRequest
from router.policy import TIME_UNIT, Candidate, Policy, Terms

STALL_RATIO: Final = 0.3
"""Milliseconds charged per millisecond of our prefill and sequence decoding there, where another
endpoint could compute the prompt: no token of theirs comes meanwhile. Counted in full it would make
a first token wait for seconds to spare fifty replies that many milliseconds; see
docs/policies/disaggregation.md for what other weights give."""

PRICE_MOST: Final = 8.0
"""Most milliseconds charged per millisecond of work: at 8 in 9 of the time busy. Where nothing is
idle any more, staying with the cached prefix at any price buries one endpoint."""

FULL_WEIGHT: Final = 2.0
"""Weight of ``u / (1 - u)`` on KV use ``u``, per millisecond of work: new KV pushes out cached
prefixes, slows decode steps, which read all KV in use, and near the end preempts. SMG's
``least_load`` adds the same form at a fixed 150 ms; in the twin, a term that does not shrink with
what is cached drives sessions away from their prefixes, which makes work, which drives away more:
at 85 % of capacity agents had half the hit ratio and 1.9 times the mean TTFT."""

FULL_RATIO: Final = 0.98
"""KV use at which the barrier stops growing, so that costs stay finite when all are full."""


NEAR_RATIO: Final = 0.005
"""What is measured is not more exact than that. Chance among near costs keeps gateway replicas that
believe the same from choosing the same, and equal idle endpoints from being used in the order of
their measuring errors."""


class ExpectedTtft(Policy):
    """Costs in milliseconds.

    First the expected TTFT: queue ahead + adapter load + transfer + prefill of the miss beside what
    decodes there. Then what it costs others: the work of the prefill delays whoever comes while
    the endpoint is busy, ``rho / (1 - rho)`` requests in the mean, where rho is the share of time
    that endpoints are computing prompts (the M/G/1 queue: Cobham 1954); and a full KV cache.
    """

    unit = TIME_UNIT
    holds = True
    near_ratio = NEAR_RATIO

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        prompt_tokens = request.prompt_tokens
        price = work_price(candidates)
        # pairs, where there are any, come last
        stall_ratio = STALL_RATIO if candidates and candidates[-1].prefill_id is not None else 0.0
        return [time_terms(prompt_tokens, c, price, stall_ratio) for c in candidates]


def work_price(candidates: Sequence[Candidate]) -> float:
    """Return the milliseconds that a millisecond of prefill costs others, as busy as all are."""
    if not candidates:
        return 0.0
    rho = sum(c.busy_ratio for c in candidates) / len(candidates)
    return min(PRICE_MOST, rho / max(1e-9, 1.0 - rho))


def time_terms(
    prompt_tokens: int, c: Candidate, price: float = 0.0, stall_ratio: float = 0.0
) -> Terms:
    """Return the cost of one candidate in milliseconds.

    Args:
        prompt_tokens: The prompt's length.
        c: The candidate.
        price: As ``work_price``.
        stall_ratio: Weight of the milliseconds for which the prefill holds up each reply there.

    """
    work = c.work_ms(prompt_tokens)
    prefill = c.fixed_ms + work
    others = price * work
    harm = 0.0 if c.prefill_id is not None else stall_ratio * prefill * c.decoding
    used = min(FULL_RATIO, (c.resident_tokens + prompt_tokens) / c.kv_tokens)
    full = FULL_WEIGHT * work * used / (1.0 - used)
    return Terms(
        c.endpoint_id,
        c.queued_ms + c.load_ms + c.transfer_ms + prefill + others + harm + full + c.evict_ms,
        (
            ("queue", c.queued_ms),
            ("adapter", c.load_ms),
            ("transfer", c.transfer_ms),
            ("prefill", prefill),
            ("others", others),
            ("decode", harm),
            ("kv", full),
            *((("evict", c.evict_ms),) if c.evict_ms else ()),
        ),
        c.prefill_id,
    )
