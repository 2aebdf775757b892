from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from headrace.core.ids import EndpointId
from router.policies.expected_ttft import (
    BATCH_MS,
    BUSY_MOST,
    FULL_RATIO,
    SHARED_RATIO,
    TTFT_PARTS,
    ExpectedTtft,
)
from router.policy import Candidate, Terms
from tests.support.routing import SPEED, A, B, request, router, view

IDLE = Candidate(
    EndpointId("a"), 0.0, 0, 0, 0.0, 0.0, 100_000, fixed_ms=15.0, per_token_ms=0.1, per_pair_ms=1e-6
)


def terms(candidate: Candidate, tokens: int = 10_000) -> Terms:
    (found,) = ExpectedTtft().costs(request("r", tokens), [candidate], Random(0))
    assert found.cost == pytest.approx(sum(ms for _, ms in found.parts))
    return found


def part(name: str, candidate: Candidate, tokens: int = 10_000) -> float:
    return dict(terms(candidate, tokens).parts)[name]


def test_prefill_is_of_what_is_not_cached_and_attends_to_what_is() -> None:
    assert part("prefill", IDLE) == pytest.approx(15.0 + 1_000.0 + 10_000 * 5_000 * 1e-6)
    warm = replace(IDLE, cached_tokens=9_000.0)
    assert part("prefill", warm) == pytest.approx(15.0 + 100.0 + 1_000 * 9_500 * 1e-6)


def test_each_thing_that_takes_time_is_added() -> None:
    busy = replace(IDLE, queued_ms=40.0, transfer_ms=7.0, load_ms=500.0, inflight=3, decoding=3)
    assert part("queue", busy) == 40.0 + 7.5  # half of a step is still to run
    assert part("transfer", busy) == 7.0
    assert part("adapter", busy) == 500.0
    assert part("decode", busy) >= part("decode", IDLE) == 0.0
    more = terms(busy).cost - terms(IDLE).cost
    assert more == pytest.approx(554.5 + part("decode", busy))
    expected = sum(ms for name, ms in terms(replace(busy, slot_ms=9.0)).parts if name in TTFT_PARTS)
    assert expected == pytest.approx(part("prefill", IDLE) + 554.5 + 9.0)


def test_one_waits_for_a_place_in_the_batch_where_there_is_none() -> None:
    assert "slot" not in dict(terms(IDLE).parts)
    packed = replace(IDLE, slot_ms=80.0)
    assert part("slot", packed) == 80.0
    assert terms(packed).cost == pytest.approx(terms(IDLE).cost + 80.0)


def test_work_delays_those_who_get_their_first_token_in_the_same_step() -> None:
    def others(queued: int) -> float:
        return part("others", replace(IDLE, inflight=4 + queued, decoding=4))

    work = part("prefill", IDLE) - IDLE.fixed_ms
    assert others(0) == 0.0
    assert others(6) == pytest.approx(SHARED_RATIO * work * 6)


def test_a_full_cache_costs_per_work_and_stays_finite() -> None:
    def full(used_tokens: float, candidate: Candidate = IDLE) -> float:
        return part("kv", replace(candidate, resident_tokens=used_tokens), 1_000)

    costs = [full(used) for used in range(0, 97_000, 3_000)]
    assert costs == sorted(set(costs))
    most = full(FULL_RATIO * 100_000)
    assert costs[-1] < most == full(1e6) < 1e6
    warm = replace(IDLE, cached_tokens=900.0)
    assert full(50_000, warm) < full(50_000) / 5  # a prompt that is held adds little


def test_a_batch_costs_the_more_the_fuller_it_is_and_nothing_where_its_size_is_unknown() -> None:
    def batch(ratio: float) -> float:
        return part("batch", replace(IDLE, batch_ratio=ratio))

    assert "batch" not in dict(terms(IDLE).parts)
    costs = [batch(taken / 20) for taken in range(1, 19)]
    assert costs == sorted(set(costs))
    assert batch(0.5) == pytest.approx(BATCH_MS)
    assert costs[-1] < batch(FULL_RATIO) == batch(1.5) < 1e3


def flowing(candidate: Candidate, per_s: float, busy: float) -> Candidate:
    return replace(candidate, sent_per_ms=per_s / 1_000.0, busy_ratio=busy)


def test_work_delays_those_to_come_by_what_the_queue_is_and_how_busy_it_is() -> None:
    def others(per_s: float, busy: float, queued_ms: float = 0.0) -> float:
        return part("others", flowing(replace(IDLE, queued_ms=queued_ms), per_s, busy))

    work = part("prefill", IDLE) - IDLE.fixed_ms
    assert others(0.0, 0.0, 500.0) == 0.0
    assert others(2.0, 0.0) == pytest.approx(0.002 * work * work / 2.0)
    assert others(2.0, 0.5) == pytest.approx(2.0 * others(2.0, 0.0))
    longer = others(2.0, 0.5, 500.0)
    assert longer - others(2.0, 0.5) == pytest.approx(0.002 / 0.5 * work * 500.0)
    assert others(2.0, 5.0) == pytest.approx(others(2.0, BUSY_MOST))


def test_busy_is_what_is_scarcest_there() -> None:
    def others(**more: Any) -> float:
        seen = flowing(replace(IDLE, queued_ms=500.0), 2.0, 0.5)
        return part("others", replace(seen, **more))

    work = others(busy_ratio=0.8)
    assert others() < work
    assert others(batch_ratio=0.8) == pytest.approx(work)
    assert others(resident_tokens=80_000.0) == pytest.approx(work)
    # the reply of a pair is elsewhere: what fills there does not delay whose prompts come here
    reply: dict[str, Any] = {"prefill_id": B, "batch_ratio": 0.8, "resident_tokens": 80_000.0}
    assert others(**reply) == others(prefill_id=B) == others()


def test_rates_count_half_of_the_endpoint_and_half_of_all() -> None:
    seen = [flowing(IDLE, 8.0, 0.0), flowing(IDLE, 1.0, 0.0), flowing(IDLE, 3.0, 0.0)]
    costs = ExpectedTtft().costs(request("r", 10_000), seen, Random(0))
    high, low, _ = (dict(terms.parts)["others"] for terms in costs)
    assert high / low == pytest.approx(8.0**0.5)


def test_the_busier_all_are_the_longer_a_queue_a_request_accepts_for_its_prefix() -> None:
    def chosen(busy: float) -> EndpointId:
        owner = flowing(replace(IDLE, cached_tokens=9_000.0, queued_ms=2_000.0), 2.0, busy)
        other = flowing(replace(IDLE, endpoint_id=EndpointId("b")), 2.0, busy)
        costs = ExpectedTtft().costs(request("r", 10_000), [owner, other], Random(0))
        return min(costs, key=lambda terms: terms.cost).endpoint_id

    assert chosen(0.1) == "b"
    assert chosen(0.8) == "a"


def test_an_endpoint_with_the_adapter_is_preferred_until_loading_is_quicker() -> None:
    r = router(view(A, "m", "lora"), view(B, "m", loadable=("lora",)))
    for n in range(5):
        decision = r.choose(request(f"r{n}", model="lora", head=n), 0.0)
        assert decision.endpoint_id == A
    assert dict(decision.ranking[1].parts)["adapter"] == SPEED.adapter_load_ms
    busy = request("busy", 10_000, 50)
    r.dispatched(busy, r.choose(busy, 0.0, frozenset({B})), 0.0)
    assert r.choose(request("x", model="lora", head=60), 0.0).endpoint_id == B


def test_among_idle_equals_the_one_with_the_longer_prefix_is_chosen() -> None:
    r = router()
    for endpoint, other, tokens in ((A, B, 800), (B, A, 1_600)):
        asked = request(f"r{endpoint}", tokens)
        r.dispatched(asked, r.choose(asked, 0.0, frozenset({other})), 0.0)
        r.released(asked.request_id, 0.0)
    assert r.choose(request("x", 3_200), 10.0).endpoint_id == B
