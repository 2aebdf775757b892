"""Send the request where its first token is expected soonest: the default. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import Final

from typing_extensions import override

from headrace.core.request import RouteRequest
from router.policy import TIME_UNIT, Candidate, Policy, Terms

STALL_RATIO: Final = 0.3
"""Milliseconds charged per millisecond of our work and sequence decoding there, where another
endpoint could compute the prompt: no token of theirs comes meanwhile. Counted in full it would make
a first token wait for seconds to spare fifty replies that many milliseconds; see
docs/policies/disaggregation.md for what other weights give."""

BUSY_MOST: Final = 0.9
"""Largest share to which an endpoint counts as busy: what is lost to a delay grows without bounds
near 1, and the share is only an estimate."""

DECODE_RATIO: Final = 0.1
"""Milliseconds charged per millisecond of our work and sequence decoding there, where no pair could
compute the prompt instead. They end so much later, and hold their KV and slow down steps for so
much longer. Of 0.05, 0.1 and 0.15 this gave the least mean TTFT in the twin."""

SHARED_RATIO: Final = 0.5
"""Milliseconds charged per millisecond of our work and prompt queued there: those that go into
the same step get their first tokens when it ends, later for ours. Not all of the queued do, as
some are being computed already, and long ones fill a step; of 0.25 and 0.5 this gave the least mean
TTFT in the twin."""

BATCH_MS: Final = 3.0
"""Milliseconds charged per ``u / (1 - u)`` on the share ``u`` of a batch's places that are taken.
When the last is gone requests wait for one to end, which takes seconds; until then nothing shows
it, and short prompts, of which many cost little, flock to where others of their kind are. Of 1, 3,
10 and 30 this gave the least mean TTFT of short prompts near capacity in the twin."""

FULL_WEIGHT: Final = 1.0
"""Weight of ``u / (1 - u)`` on KV use ``u``, per millisecond of work: new KV pushes out cached
prefixes, and near the end requests wait for room or preempt others. SMG's ``least_load`` adds the
same form at a fixed 150 ms; in the twin, a term that does not shrink with what is cached drives
sessions away from their prefixes, which makes work, which drives away more. Without it the mean
TTFT of long prompts near capacity was up to 1.4 times as high; of 0.25, 0.5 and 1 this gave
most goodput over all."""

FULL_RATIO: Final = 0.98
"""KV use, and use of a batch's places, at which the barriers stop growing, so that costs stay
finite when all are full."""

NEAR_RATIO: Final = 0.005
"""What is measured is not more exact than that. Chance among near costs keeps gateway replicas that
believe the same from choosing the same, and equal idle endpoints from being used in the order of
their measuring errors."""

TTFT_PARTS: Final = frozenset({"slot", "queue", "adapter", "transfer", "prefill"})
"""Parts of the cost that are time until the first token; the rest is harm put into milliseconds."""


class ExpectedTtft(Policy):
    """Costs in milliseconds.

    First the expected TTFT: a place in the batch + queue ahead + adapter load + transfer + the rest
    of the step under way + prefill of the miss beside what decodes there. Then what it costs
    others: whoever is in the same step, or comes while the endpoint is still computing, waits for
    this prompt too; whoever decodes there stands still meanwhile; and KV and places in the batch
    become scarce.
    """

    unit = TIME_UNIT
    holds = True
    near_ratio = NEAR_RATIO

    @override
    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        if not candidates:
            return []
        prompt_tokens = request.prompt_tokens
        mean_per_ms = sum(c.sent_per_ms for c in candidates) / len(candidates)
        # pairs, where there are any, come last
        stall_ratio = STALL_RATIO if candidates[-1].prefill_id is not None else 0.0
        return [time_terms(prompt_tokens, c, mean_per_ms, stall_ratio) for c in candidates]


def price(c: Candidate, mean_per_ms: float) -> float:
    """Return how many requests to come will wait for each millisecond queued there.

    With ``W`` queued, requests coming at ``rate`` and a share ``rho`` of the time busy, ``x`` more
    adds ``rate / (1 - rho) * x * (W + x / 2)`` to what all later ones wait: the change of the M/G/1
    queue's value function ``rate * W**2 / (2 * (1 - rho))``. Choosing by it is one step of policy
    iteration from a split at these rates. Source: Hyytia, Penttinen, Aalto, "Size- and state-aware
    dispatching problem with queue-specific job sizes", EJOR 217(2), 2012.

    The rate is the geometric mean of the endpoint's own and all endpoints'. At its own, fast and
    slow cards part prompts between them best, but one busier by chance is shunned. Busy is what is
    scarcest there: time to compute prompts, places in the batch, or KV. Where replies fill the
    batch or the cache a delay lasts as long as where prompts fill the time.
    """
    busy = c.busy_ratio
    if c.prefill_id is None:  # what a pair's reply takes does not delay its prompt
        busy = max(busy, c.batch_ratio, c.resident_tokens / c.kv_tokens)
    return math.sqrt(c.sent_per_ms * mean_per_ms) / (1.0 - min(BUSY_MOST, busy))


def time_terms(
    prompt_tokens: int, c: Candidate, mean_per_ms: float = 0.0, stall_ratio: float = 0.0
) -> Terms:
    """Return the cost of one candidate in milliseconds.

    Args:
        prompt_tokens: The prompt's length.
        c: The candidate.
        mean_per_ms: Requests per millisecond that an endpoint is sent in the mean.
        stall_ratio: Weight of the milliseconds for which the prefill holds up each reply there; 0
            where none could be held up less, which leaves ``DECODE_RATIO`` of its work.

    """
    work = c.work_ms(prompt_tokens)
    prefill = c.fixed_ms + work
    queue, decoding = c.queued_ms, c.decoding
    others = work * price(c, mean_per_ms) * (queue + work / 2.0)
    decode = batch = 0.0
    if c.prefill_id is None:
        decode = (stall_ratio or DECODE_RATIO) * work * decoding
        others += SHARED_RATIO * work * max(0, c.inflight - decoding)
        queue += c.step_ms
    if c.batch_ratio:
        taken = min(FULL_RATIO, c.batch_ratio)
        batch = BATCH_MS * taken / (1.0 - taken)
    used = min(FULL_RATIO, (c.resident_tokens + prompt_tokens) / c.kv_tokens)
    full = FULL_WEIGHT * work * used / (1.0 - used)
    ttft = c.slot_ms + queue + c.load_ms + c.transfer_ms + prefill
    harm = others + decode + full + batch + c.evict_ms
    return Terms(
        c.endpoint_id,
        ttft + harm,
        (
            ("queue", queue),
            ("adapter", c.load_ms),
            ("transfer", c.transfer_ms),
            ("prefill", prefill),
            ("others", others),
            ("decode", decode),
            ("kv", full),
            *((("slot", c.slot_ms),) if c.slot_ms else ()),
            *((("batch", batch),) if batch else ()),
            *((("evict", c.evict_ms),) if c.evict_ms else ()),
        ),
        c.prefill_id,
    )
