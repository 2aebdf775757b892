"""One routing decision kept whole: enough to make it again, exactly. Pure.

Candidates, requests and terms are written field by field as their classes declare them, so a fact
added to any of them is recorded without a change here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Final, get_type_hints

import msgspec

from headrace.core.endpoint import BlockScheme
from headrace.core.errors import InvalidRequest
from headrace.core.ids import BlockHash, EndpointId, ModelName
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from router.catalog import make_policy
from router.decide import Decision, decide, tie_rng
from router.memory import Remembering
from router.policy import Candidate, Terms, plan_name

_COUNTED: Final = ("blocks", "engine_blocks")
"""Fields of a request that tell what a prompt says; only their lengths are kept."""

FACTS: Final = tuple(f.name for f in fields(RouteRequest) if f.name not in _COUNTED)
"""Fields of a request that are kept as they are."""

facts_of: Final[Callable[[RouteRequest], tuple[Any, ...]]] = attrgetter(*FACTS)
"""Returns a request's ``FACTS`` without touching its blocks; costs 0.4 us."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request as it was routed, without anything that tells what its prompt said.

    Attributes:
        facts: The request's fields named in ``FACTS``, as plain JSON values.
        blocks: How many routing blocks its prompt filled.
        engine_blocks: How many engine blocks, per block scheme.

    """

    facts: dict[str, Any]
    blocks: int = 0
    engine_blocks: tuple[tuple[BlockScheme, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyUsed:
    """What costed the candidates: a name in the catalogue and what it remembered just before."""

    name: str
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Happened:
    """What came of it; ``ttft_s`` counts from arrival and is None when no token came."""

    outcome: Outcome
    ttft_s: float | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class RecordedDecision:
    """One decision, what it was made from, and what came of it.

    Attributes:
        request_id: As the client knows it; the router's own is among the request's facts.
        attempt: How many times the request had been sent before: 0 unless an endpoint failed it, or
            it was called back.
        model: The name the client asked for.
        now_s: When, in monotonic seconds of the gateway's clock.
        version: Of the code that decided; another may cost differently.
        request: What was placed.
        candidates: What was believed of each endpoint, in the order the policy saw them.
        policy: What costed them.
        seed: Of the generator that broke ties.
        unit: In what costs are measured.
        ranking: What each would have cost, best first.
        endpoint_id: The one chosen.
        happened: None while in flight, and for an attempt that another followed.

    """

    request_id: str
    attempt: int
    model: ModelName
    now_s: float
    version: str
    request: RecordedRequest
    candidates: tuple[Candidate, ...]
    policy: PolicyUsed
    seed: int
    unit: str
    ranking: tuple[Terms, ...]
    endpoint_id: EndpointId
    happened: Happened | None = None

    @property
    def prefill_id(self) -> EndpointId | None:
        """Which endpoint was to compute the prompt, if another than the one chosen."""
        best = self.ranking[0] if self.ranking else None
        return None if best is None or best.endpoint_id != self.endpoint_id else best.prefill_id

    @property
    def candidate(self) -> Candidate:
        """What was believed of the endpoint, or the pair, that was chosen."""
        chosen = (self.endpoint_id, self.prefill_id)
        return next(c for c in self.candidates if (c.endpoint_id, c.prefill_id) == chosen)


def record_request(
    facts: tuple[Any, ...], blocks: int, engine_blocks: tuple[tuple[BlockScheme, int], ...]
) -> RecordedRequest:
    """Make the record of a request from its ``facts_of`` and the lengths of its blocks."""
    named = dict(zip(FACTS, facts, strict=True))
    return RecordedRequest(msgspec.json.decode(msgspec.json.encode(named)), blocks, engine_blocks)


def count_engine_blocks(request: RouteRequest) -> tuple[tuple[BlockScheme, int], ...]:
    """Return how many engine blocks the request has in each scheme."""
    return tuple((scheme, len(blocks)) for scheme, blocks in request.engine_blocks.items())


def routed(recorded: RecordedRequest) -> RouteRequest:
    """Return the request that was placed, with as many blocks as it had but none of their hashes.

    A field that the record lacks, being older than the field, takes its default.

    Raises:
        InvalidRequest: if a field has a value that it cannot have.

    """
    hints = get_type_hints(RouteRequest)
    known = {name: recorded.facts[name] for name in FACTS if name in recorded.facts}
    try:
        facts = {name: msgspec.convert(value, hints[name]) for name, value in known.items()}
        return RouteRequest(
            **facts,
            blocks=(BlockHash(0),) * recorded.blocks,
            engine_blocks={scheme: (0,) * count for scheme, count in recorded.engine_blocks},
        )
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidRequest(f"not a recorded request: {error}", field="request") from None


def replay(record: RecordedDecision, policy: str | None = None) -> Decision:
    """Decide again on what was recorded.

    Args:
        record: The decision.
        policy: Another policy to ask instead, with nothing in its memory.

    Raises:
        ConfigError: if no policy has that name.
        InvalidRequest: if what was recorded cannot have been a request.
        NoEndpoint: if no candidate was recorded.

    """
    costing = make_policy(record.policy.name if policy is None else policy)
    if policy is None and isinstance(costing, Remembering):
        costing.recall(record.policy.memory)
    request = routed(record.request)
    rng = tie_rng(record.seed, request.request_id, record.attempt)
    return decide(request, record.candidates, costing, rng)


def differences(record: RecordedDecision, again: Decision) -> list[str]:
    """Return in words how ``again`` differs from what was recorded; empty if it is identical."""
    found: list[str] = []
    if record.unit != again.unit:
        found.append(f"costs were in {record.unit}, now in {again.unit}")
    chosen = plan_name(record.endpoint_id, record.prefill_id)
    if chosen != again.ranking[0].name:
        found.append(f"{chosen} was chosen, now {again.ranking[0].name}")
    before = {terms.name: terms for terms in record.ranking}
    for terms in again.ranking:
        was = before.pop(terms.name, None)
        if was is None:
            found.append(f"{terms.name} was not ranked, now costs {terms.cost!r}")
        elif was != terms:
            found.append(f"{terms.name}: {_changes(was, terms)}")
    found += [f"{name} was ranked, now is not" for name in before]
    order = [terms.name for terms in record.ranking]
    if not found and order != [terms.name for terms in again.ranking]:
        found.append("the order of equal costs is another")
    return found


def _changes(was: Terms, now: Terms) -> str:
    old, new = dict(was.parts), dict(now.parts)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    parts = [f"{name} {old.get(name)!r}, now {new.get(name)!r}" for name in names]
    return "; ".join([f"cost {was.cost!r}, now {now.cost!r}", *parts])


def encode(record: RecordedDecision) -> bytes:
    """Return the record as JSON; ``decode`` gives back an equal one, every float exactly."""
    return msgspec.json.encode(record)


def decode(data: bytes) -> list[RecordedDecision]:
    """Read one record, or the gateway's answer that holds several, oldest first.

    Raises:
        InvalidRequest: if it is neither; the message says where.

    """
    try:
        try:
            return [msgspec.json.decode(data, type=RecordedDecision)]
        except msgspec.ValidationError as single:
            if "attempts" not in (top := msgspec.json.decode(data)):
                raise single from None
            return msgspec.convert(top["attempts"], list[RecordedDecision])
    except (msgspec.DecodeError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"not a recorded decision: {error}") from None
