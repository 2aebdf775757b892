"""Which two endpoints could share a request: one computes its prompt, the other its reply. Pure.

What a pair costs separates: when the prompt is computed depends on the first endpoint alone, and
what the reply does to its neighbours on the second, as does the transfer of what that one does not
hold. So the best of each are found one after the other, and only pairs of these are costed beside
the endpoints that would do all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from heapq import nsmallest
from typing import Final

from headrace.core.ids import RequestId
from headrace.core.request import RouteRequest
from router.policies.expected_ttft import time_terms
from router.policy import Candidate

EACH: Final = 2
"""How many endpoints of each kind are paired: the best, and one to show what it was up against."""

HANDOVER_MS: Final = 5.0
"""What a split costs however short the prompt: a second request, and the handshake of the two
engines. The step that then makes the first token comes on top."""


def prefill_half(request: RouteRequest) -> RouteRequest:
    """Return what the endpoint that computes the prompt is reserved for."""
    return replace(
        request,
        request_id=half_id(request.request_id),
        max_output_tokens=1,
        first_token_seen=True,  # its whole reply is one token
    )


def half_id(request_id: RequestId) -> RequestId:
    """Return the id under which the prompt's half of a split request is in the books."""
    return RequestId(f"{request_id}/prefill")


def pairs(
    prompt_tokens: int,
    prefilling: Sequence[Candidate],
    replying: Sequence[Candidate],
    transfer_tokens_per_s: Sequence[float],
) -> list[Candidate]:
    """Return the pairs worth costing, at most ``EACH`` squared.

    Args:
        prompt_tokens: The prompt's length.
        prefilling: Endpoints that may compute it and do nothing else.
        replying: Endpoints that may do the rest.
        transfer_tokens_per_s: How fast each of these takes KV from another.

    """
    if not prefilling or not replying:
        return []
    decoders = list(zip(replying, transfer_tokens_per_s, strict=True))

    def cost(prefill: Candidate, decode: tuple[Candidate, float]) -> float:
        return time_terms(prompt_tokens, _pair(prompt_tokens, prefill, *decode)).cost

    first = nsmallest(EACH, prefilling, key=lambda candidate: cost(candidate, decoders[0]))
    then = nsmallest(EACH, decoders, key=lambda decoder: cost(first[0], decoder))
    return [_pair(prompt_tokens, prefill, *decoder) for prefill in first for decoder in then]


def _pair(prompt_tokens: int, p: Candidate, d: Candidate, tokens_per_s: float) -> Candidate:
    computed_ms = p.queued_ms + p.fixed_ms + p.work_ms(prompt_tokens)
    fetch_ms = max(0.0, prompt_tokens - d.cached_tokens) / tokens_per_s * 1_000.0
    return Candidate(
        d.endpoint_id,
        p.cached_tokens,
        d.inflight,
        d.decoding,
        # prompts that the second computes itself go on meanwhile; what is left of them comes first
        p.queued_ms + max(0.0, d.queued_ms - computed_ms),
        d.resident_tokens,
        d.kv_tokens,
        p.fixed_ms,
        p.per_token_ms,
        p.per_pair_ms,
        p.transfer_ms + HANDOVER_MS + fetch_ms + d.transfer_ms + d.step_ms + d.fixed_ms,
        p.load_ms + d.load_ms,
        d.session_here,
        p.exact,
        p.endpoint_id,
        p.sent_per_ms,
        p.busy_ratio,
        p.evict_ms + d.evict_ms,
        d.slot_ms,
        d.batch_ratio,
    )
