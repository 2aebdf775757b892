"""The ring of decisions: what it gives back, what it forgets, and what it weighs."""

import gc
import tracemalloc
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.decisions import SAME_ID, Decisions
from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from router.catalog import make_policy
from router.decide import Decision, decide, tie_rng
from router.memory import memory_reader
from router.policy import Candidate
from router.record import Happened, replay
from tests.support.recorded import candidate, candidates, request

SEEN = (candidate("a", queued_ms=40.0), candidate("b", cached_tokens=900.0), candidate("c"))


class Rig:
    """A ring, and a policy whose decisions go into it."""

    def __init__(
        self, requests: int = 100, size_bytes: int = 1 << 20, policy: str = "expected-ttft"
    ) -> None:
        self.ring = Decisions(requests, size_bytes, policy=policy, seed=5)
        self.policy = make_policy(policy)
        self.memory = memory_reader(self.policy)

    def note(
        self, client: str, own: str, attempt: int = 1, seen: tuple[Candidate, ...] = SEEN
    ) -> Decision:
        placed = request(own)
        memory = self.memory()
        rng = tie_rng(5, placed.request_id, attempt)
        decision = decide(placed, seen, self.policy, rng)
        self.ring.note(
            client, attempt, placed, decision, float(attempt), candidates=seen, memory=memory
        )
        self.ring.check()
        return decision

    def ended(self, own: str, outcome: Outcome = Outcome.SERVED) -> None:
        self.ring.ended(RequestId(own), outcome, 0.25, Usage(1_000, 8, 896))
        self.ring.check()


def test_a_decision_is_given_back_as_it_was_made_and_with_what_came_of_it() -> None:
    rig = Rig()
    decision = rig.note("mine", "own-1")
    (record,) = rig.ring.of("mine")
    assert record.candidates == SEEN
    assert (record.ranking, record.endpoint_id) == (decision.ranking, decision.endpoint_id)
    assert (record.request_id, record.request.facts["request_id"]) == ("mine", "own-1")
    assert (record.model, record.now_s, record.seed, record.happened) == ("m", 1.0, 5, None)
    assert (record.request.blocks, record.request.engine_blocks[0][1]) == (4, 8)
    rig.ended("own-1")
    (record,) = rig.ring.of("mine")
    assert record.happened == Happened(Outcome.SERVED, 0.25, Usage(1_000, 8, 896))


@pytest.mark.parametrize("policy", ["expected-ttft", "random", "round-robin", "least-requests"])
def test_every_decision_given_back_can_be_made_again(policy: str) -> None:
    rig = Rig(policy=policy)
    for i in range(7):
        rig.note(f"r{i}", f"own-{i}")
    for i in range(7):
        (record,) = rig.ring.of(f"r{i}")
        assert replay(record).ranking == record.ranking


def test_attempts_are_in_order_and_only_the_last_has_an_end() -> None:
    rig = Rig()
    rig.note("r", "own")
    rig.note("r", "own", 2, SEEN[1:])
    rig.ended("own", Outcome.ENGINE_FAILED)
    first, second = rig.ring.of("r")
    assert (first.attempt, second.attempt, len(second.candidates)) == (1, 2, 2)
    assert first.happened is None
    assert second.happened is not None
    assert second.happened.outcome is Outcome.ENGINE_FAILED
    assert [record.attempt for record in rig.ring.newest(9)] == [2]


def test_requests_that_share_an_id_are_told_apart_and_the_newest_are_shown() -> None:
    rig = Rig()
    for i in range(SAME_ID + 4):
        rig.note("same", f"own-{i}")
    rig.ended("own-19", Outcome.CLIENT_GONE)
    found = rig.ring.of("same")
    assert [r.request.facts["request_id"] for r in found] == [f"own-{i}" for i in range(4, 20)]
    assert [r.happened is None for r in found] == [True] * 15 + [False]


def test_unknown_requests_have_no_decisions_and_may_end() -> None:
    rig = Rig()
    rig.ended("stranger")
    assert rig.ring.of("stranger") == []
    assert rig.ring.newest(5) == []


def test_the_oldest_are_forgotten_beyond_the_count() -> None:
    rig = Rig(requests=3)
    for i in range(5):
        rig.note(f"r{i}", f"own-{i}")
    assert [record.request_id for record in rig.ring.newest(10)] == ["r4", "r3", "r2"]
    assert rig.ring.of("r1") == []
    rig.ended("own-0")
    rig.note("r0", "own-0", 2)  # forgotten while in flight: what follows is kept
    assert [record.attempt for record in rig.ring.of("r0")] == [2]


def test_the_oldest_are_forgotten_beyond_the_bytes() -> None:
    rig = Rig(size_bytes=20_000)
    for i in range(40):
        rig.note(f"r{i}", f"own-{i}")
    kept = len(rig.ring)
    assert 5 < kept < 20
    assert rig.ring.newest(1)[0].request_id == "r39"
    wide = tuple(candidate(f"e{i:03}") for i in range(400))
    rig.note("wide", "own-wide", seen=wide)  # larger than all the room there is
    assert len(rig.ring) == 0
    rig.note("next", "own-next")
    assert len(rig.ring) == 1


def test_a_ring_of_no_size_keeps_nothing() -> None:
    rig = Rig(requests=0)
    rig.note("r", "own")
    assert len(rig.ring) == 0
    assert rig.ring.size_bytes == 0


def test_what_is_kept_does_not_change_with_what_it_was_made_from() -> None:
    rig = Rig()
    seen = list(SEEN)
    placed = request("own")
    memory = {"turn": 3}
    decision = decide(placed, seen, rig.policy, Random(1))
    rig.ring.note("r", 1, placed, decision, 1.0, candidates=seen, memory=memory)
    seen.clear()
    memory["turn"] = 4
    (record,) = rig.ring.of("r")
    assert record.candidates == SEEN
    assert record.policy.memory == {"turn": 3}


@given(seen=candidates(), attempt=st.integers(1, 9))
def test_candidates_and_terms_are_packed_exactly(seen: tuple[Candidate, ...], attempt: int) -> None:
    rig = Rig()
    decision = rig.note("r", "own", attempt, seen)
    (record,) = rig.ring.of("r")
    assert (record.candidates, record.ranking, record.attempt) == (seen, decision.ranking, attempt)


@pytest.mark.parametrize("endpoints", [1, 8, 100])
def test_what_it_weighs_is_what_it_says(endpoints: int) -> None:
    requests = 400 if endpoints < 100 else 60
    rig, chance = Rig(requests=10_000, size_bytes=1 << 30), Random(1)
    gc.collect()
    tracemalloc.start()
    try:
        for i in range(requests):
            seen = tuple(
                candidate(f"e{j}", queued_ms=chance.random(), cached_tokens=chance.random())
                for j in range(endpoints)
            )
            own = RequestId(f"req-0123456789ab-{i:x}")
            placed = replace(request(own), prompt_tokens=1_000 + i)
            decision = decide(placed, seen, rig.policy, chance)
            rig.ring.note(own, 1, placed, decision, i + 0.5, candidates=seen)
            rig.ring.ended(own, Outcome.SERVED, i + 0.25, Usage(1_000 + i, 300 + i, 600 + i))
        del placed, seen, decision, own
        gc.collect()
        measured = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.7 < measured / rig.ring.size_bytes < 1.15
