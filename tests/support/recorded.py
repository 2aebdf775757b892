"""Decisions to record, drawn at random or built by hand."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import strategies as st

from headrace.core.endpoint import BlockScheme
from headrace.core.ids import BlockHash, EndpointId, ModelName, RequestId
from headrace.core.request import RouteRequest
from router.catalog import POLICIES, make_policy
from router.decide import decide, tie_rng
from router.memory import memory_reader
from router.policy import Candidate
from router.record import (
    PolicyUsed,
    RecordedDecision,
    count_engine_blocks,
    facts_of,
    record_request,
)

M = ModelName("m")

_AMOUNTS = st.one_of(st.sampled_from([0.0, 1.0, 0.1 + 0.2]), st.floats(0, 1e7))


def candidate(name: str, **values: float) -> Candidate:
    """An idle endpoint of usual size, but for ``values``."""
    facts = {
        "cached_tokens": 0.0,
        "inflight": 0,
        "decoding": 0,
        "queued_ms": 0.0,
        "resident_tokens": 0.0,
        "kv_tokens": 400_000,
        "fixed_ms": 15.0,
        "per_token_ms": 0.125,
    }
    return Candidate(endpoint_id=EndpointId(name), **{**facts, **values})  # type: ignore[arg-type]


def request(name: str = "r1", tokens: int = 1_000, blocks: int = 4) -> RouteRequest:
    return RouteRequest(
        RequestId(name),
        M,
        tokens,
        tuple(BlockHash(2**63 + i) for i in range(blocks)),
        engine_blocks={BlockScheme(16): range(blocks * 2)},
    )


def recorded(
    placed: RouteRequest,
    candidates: tuple[Candidate, ...],
    policy: str = "expected-ttft",
    *,
    warm: int = 0,
    seed: int = 0,
    attempt: int = 0,
) -> RecordedDecision:
    """What a gateway would record, its policy having decided ``warm`` times before."""
    costing = make_policy(policy)
    for i in range(warm):
        decide(placed, candidates, costing, tie_rng(seed, RequestId(f"w{i}"), 1))
    memory = dict(memory_reader(costing)())
    decision = decide(placed, candidates, costing, tie_rng(seed, placed.request_id, attempt))
    return RecordedDecision(
        request_id="from-client",
        attempt=attempt,
        model=placed.model,
        now_s=12.5,
        version="0",
        request=record_request(facts_of(placed), len(placed.blocks), count_engine_blocks(placed)),
        candidates=candidates,
        policy=PolicyUsed(policy, memory),
        seed=seed,
        unit=decision.unit,
        ranking=decision.ranking,
        endpoint_id=decision.endpoint_id,
    )


@st.composite
def candidates(draw: st.DrawFn, most: int = 9) -> tuple[Candidate, ...]:
    """Candidates in order of id, many of them equal in all that is known of them."""
    count = draw(st.integers(1, most))
    kinds = draw(st.lists(_facts(), min_size=1, max_size=3))
    single = [candidate(f"e{i}", **draw(st.sampled_from(kinds))) for i in range(count)]
    pairs = draw(st.integers(0, min(2, count)))
    return (*single, *(replace(c, prefill_id=EndpointId("p")) for c in single[:pairs]))


@st.composite
def _facts(draw: st.DrawFn) -> dict[str, float]:
    """Any value for every field that there is, of the field's type."""
    kinds = {"float": _AMOUNTS, "int": st.integers(1, 10**6), "bool": st.booleans()}
    names = {f.name: str(f.type) for f in fields(Candidate)}
    return {name: draw(kinds[kind]) for name, kind in names.items() if kind in kinds}


@st.composite
def decisions(draw: st.DrawFn) -> RecordedDecision:
    """A decision of any policy of the catalogue."""
    placed = RouteRequest(
        RequestId(draw(st.text(min_size=1, max_size=20))),
        ModelName(draw(st.text(min_size=1, max_size=20))),
        draw(st.integers(1, 200_000)),
        tuple(BlockHash(i) for i in range(draw(st.integers(0, 20)))),
        block_tokens=draw(st.floats(0.01, 1e3)),
        max_output_tokens=draw(st.none() | st.integers(1, 10**6)),
        session=draw(st.none() | st.text(max_size=20)),
        priority=draw(st.integers(-5, 5)),
        first_token_seen=draw(st.booleans()),
        engine_blocks=draw(
            st.sampled_from([{}, {BlockScheme(16, seed="0"): (1, 2, 3), BlockScheme(32): ()}])
        ),
    )
    return recorded(
        placed,
        draw(candidates()),
        draw(st.sampled_from(sorted(POLICIES))),
        warm=draw(st.integers(0, 5)),
        seed=draw(st.integers(0, 2**64)),
        attempt=draw(st.integers(0, 4)),
    )
