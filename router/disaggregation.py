"""Which two endpoints could share a request: one computes its prompt, the other its reply. Pure.

What a pair costs separates: when the prompt is computed depends on the first endpoint alone, and
what the reply does to its neighbours on the second, as does the transfer of what that one does not
hold. So the best of each are found one after the other, and only pairs of these are costed beside
the endpoints that would do all of it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import Final

from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.policies.expected_ttft import time_terms
from router.policy import Candidate
from router.speed import token_pairs

EACH: Final = 2
"""How many endpoints of each kind are paired: the best, and one to show what it was up against."""

HANDOVER_MS: Final = 5.0
"""What a split costs however short the prompt: a second request, and the handshake of the two
engines. The step that then makes the first token comes on top."""


LEARN_RATIO: Final = 0.2
"""Weight of one handover in what is learned of an endpoint's."""

BOUNDS: Final = (0.25, 32.0)
"""Within what factor of what was presumed a handover may be learned to be."""

FORGET_S: Final = 60.0
"""Time in which half of what was learned is forgotten: an endpoint whose link was once slow is
otherwise never chosen again, and never found to have recovered."""


_NOTHING: Final = (None, 0.0, None)


class Handovers:
    """How much longer than presumed it takes until a prompt computed elsewhere gives a token.

    Learned per endpoint that fetches; the network between engines is nothing that anyone reports.
    """

    def __init__(self) -> None:
        self._learned: dict[EndpointId, tuple[float, float]] = {}
        self._expected: dict[RequestId, tuple[EndpointId, float, float | None]] = {}

    def ratio(self, endpoint_id: EndpointId, now_s: float) -> float:
        """Return the factor on what is presumed; 1 where nothing was seen lately."""
        learned = self._learned.get(endpoint_id)
        if learned is None:
            return 1.0
        log_ratio, at_s = learned
        return math.exp(log_ratio * 0.5 ** (max(0.0, now_s - at_s) / FORGET_S))

    def expected(self, request_id: RequestId, endpoint_id: EndpointId, expected_ms: float) -> None:
        """Note how long the handover of a request that is being sent should take."""
        self._expected[request_id] = (endpoint_id, expected_ms, None)

    def begun(self, request_id: RequestId, now_s: float) -> None:
        """Note that the prompt is computed, so that it can be fetched."""
        endpoint_id, expected_ms, _ = self._expected[request_id]
        self._expected[request_id] = (endpoint_id, expected_ms, now_s)

    def done(self, request_id: RequestId, now_s: float) -> None:
        """Learn from the first token; ignored for requests that are not handed over."""
        endpoint_id, expected_ms, begun_s = self._expected.get(request_id, _NOTHING)
        if endpoint_id is None or begun_s is None:
            return
        del self._expected[request_id]
        ratio = max(1.0, (now_s - begun_s) * 1_000.0) / max(1.0, expected_ms)
        log_ratio = math.log(self.ratio(endpoint_id, now_s)) + LEARN_RATIO * math.log(ratio)
        low, high = BOUNDS
        log_ratio = min(math.log(high), max(math.log(low), log_ratio))
        self._learned[endpoint_id] = (log_ratio, now_s)

    def over(self, request_id: RequestId) -> None:
        """Forget a request that has ended."""
        self._expected.pop(request_id, None)

    def keep(self, endpoints: frozenset[EndpointId]) -> None:
        """Forget endpoints that are no longer there."""
        for endpoint_id in self._learned.keys() - endpoints:
            del self._learned[endpoint_id]

    def check(self, inflight: Container[RequestId]) -> None:
        """Assert that nothing is expected of requests that have ended."""
        assert all(request_id in inflight for request_id in self._expected)


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


@dataclass(frozen=True, slots=True)
class Link:
    """How an endpoint takes KV from another: presumed tokens per second, learned factor on it."""

    tokens_per_s: float
    ratio: float = 1.0


def pairs(
    prompt_tokens: int,
    prefilling: Sequence[Candidate],
    replying: Sequence[Candidate],
    links: Sequence[Link],
) -> list[Candidate]:
    """Return the pairs worth costing, at most ``EACH`` squared.

    Args:
        prompt_tokens: The prompt's length.
        prefilling: Endpoints that may compute it and do nothing else.
        replying: Endpoints that may do the rest.
        links: How each of these takes KV from another.

    """
    if not prefilling or not replying:
        return []
    decoders = list(zip(replying, links, strict=True))

    def cost(prefill: Candidate, decode: tuple[Candidate, Link]) -> float:
        return time_terms(prompt_tokens, _pair(prompt_tokens, prefill, *decode)).cost

    first = nsmallest(EACH, prefilling, key=lambda candidate: cost(candidate, decoders[0]))
    then = nsmallest(EACH, decoders, key=lambda decoder: cost(first[0], decoder))
    return [_pair(prompt_tokens, prefill, *decoder) for prefill in first for decoder in then]


def _pair(prompt_tokens: int, p: Candidate, d: Candidate, link: Link) -> Candidate:
    miss = prompt_tokens - p.cached_tokens
    computed_ms = p.queued_ms + p.fixed_ms + miss * p.per_token_ms
    computed_ms += token_pairs(miss, p.cached_tokens) * p.per_pair_ms
    fetch_ms = max(0.0, prompt_tokens - d.cached_tokens) / link.tokens_per_s * 1_000.0
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
        p.transfer_ms + link.ratio * (HANDOVER_MS + fetch_ms + d.transfer_ms + d.fixed_ms),
        p.load_ms + d.load_ms,
        d.session_here,
        p.exact,
        p.endpoint_id,
    )
