"""What a routing policy sees and must return. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from headrace.core.ids import EndpointId
from headrace.core.request import RouteRequest
from router.speed import token_pairs

STEP_RATIO: Final = 0.5
"""Share of a step that is still to run when a request comes to an endpoint that decodes: it comes
at any time. Without it slow cards, whose steps are long, looked 20 ms faster than they were."""


@dataclass(slots=True)
class Candidate:
    """One endpoint and all that is known of it for one decision; nobody changes it.

    Or a pair of them: ``prefill_id`` computes the prompt and ``endpoint_id`` the reply. Then all
    that tells when the prompt is computed is of the first, and the rest of the second.

    Not declared frozen only because a frozen one takes three times as long to make, and a decision
    makes one per endpoint.

    Attributes:
        endpoint_id: Which endpoint.
        cached_tokens: Leading prompt tokens it is believed to hold in any tier; < the prompt's
            length.
        inflight: Requests we sent there that have not ended.
        decoding: Those of them that have had their first token.
        queued_ms: Expected milliseconds until the prompts we sent there are computed,
            less what it must have computed since we last heard of it.
        resident_tokens: KV tokens that the requests in flight there hold or will need, counted
            once where they share.
        kv_tokens: KV tokens it can hold in all.
        fixed_ms: What any prefill costs there however short, as measured, beside what decodes.
        per_token_ms: What each uncached prompt token costs there on top of it, as measured.
        per_pair_ms: What each pair of an uncached token and one before it costs, as measured.
        transfer_ms: What bringing ``cached_tokens`` to its GPU costs, as far as they lie elsewhere.
        load_ms: Until the adapter that the request needs can run there; 0 where it is loaded and
            has a slot.
        session_here: Whether it served the request's session last.
        exact: Whether ``cached_tokens`` was told by the engine's events, not guessed.
        prefill_id: The other endpoint that would compute the prompt, or None.
        sent_per_ms: Requests sent there per millisecond, lately.
        busy_ratio: Milliseconds of prefill that these brought per millisecond.
        evict_ms: What giving that adapter a slot costs requests for others.
        slot_ms: Expected milliseconds until one of the requests there ends and leaves it a place
            in the batch; 0 while there is one.
        batch_ratio: Requests in flight there over the places in its batch; 0 while nobody knows
            how many it has.

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
    per_pair_ms: float = 0.0
    transfer_ms: float = 0.0
    load_ms: float = 0.0
    session_here: bool = False
    exact: bool = False
    prefill_id: EndpointId | None = None
    sent_per_ms: float = 0.0
    busy_ratio: float = 0.0
    evict_ms: float = 0.0
    slot_ms: float = 0.0
    batch_ratio: float = 0.0

    @property
    def step_ms(self) -> float:
        """What is left of the step that decodes there, before a prompt can be taken up."""
        return STEP_RATIO * self.fixed_ms if self.decoding else 0.0

    def work_ms(self, prompt_tokens: int) -> float:
        """Return what computing the uncached part of a prompt takes there, by itself."""
        miss = max(0.0, prompt_tokens - self.cached_tokens)
        return miss * self.per_token_ms + token_pairs(miss, self.cached_tokens) * self.per_pair_ms


@dataclass(slots=True)
class Terms:
    """What one endpoint would cost; the sum is what the policy minimises. Nobody changes it.

    ``unit`` says in what: milliseconds for the default policy, so that a decision can be read as
    "expected first token in 212 ms: 180 queue + 32 prefill". ``prefill_id`` is the candidate's.
    """

    endpoint_id: EndpointId
    cost: float
    parts: tuple[tuple[str, float], ...] = ()
    prefill_id: EndpointId | None = None

    @property
    def name(self) -> str:
        """What to call it: an endpoint, or a pair."""
        return plan_name(self.endpoint_id, self.prefill_id)


def plan_name(endpoint_id: EndpointId, prefill_id: EndpointId | None) -> str:
    """Return what people call an endpoint, or a pair of which the first computes the prompt."""
    return endpoint_id if prefill_id is None else f"{prefill_id} > {endpoint_id}"


TIME_UNIT: Final = "ms"
"""The unit of policies that cost time; only these can weigh a pair against one endpoint."""


class Policy(Protocol):
    """Costs endpoints for one request; the lowest is chosen and ties are broken by ``rng``.

    Implementations take no clock and do no I/O. Whatever memory one needs (a cursor) is its own.

    Attributes:
        unit: What costs are counted in.
        holds: Whether requests are to be held while every endpoint is full.
        near_ratio: Costs within this share of the least are as good as the least.

    """

    unit: str
    holds: bool
    near_ratio: float

    def costs(
        self, request: RouteRequest, candidates: Sequence[Candidate], rng: Random
    ) -> list[Terms]:
        """Return one ``Terms`` per candidate, in the order given; costs are finite and >= 0."""
        ...
