"""What a record keeps, what it leaves out, and what is said of a decision that changed."""

from dataclasses import replace

import msgspec
import pytest

from headrace.core.errors import ConfigError, InvalidRequest
from headrace.core.ids import EndpointId
from router.catalog import make_policy
from router.memory import NO_MEMORY, memory_reader
from router.policies.round_robin import RoundRobin
from router.record import (
    PolicyUsed,
    RecordedDecision,
    decode,
    differences,
    encode,
    replay,
    routed,
)
from tests.support.recorded import candidate, recorded, request

BUSY = (candidate("a", queued_ms=900.0), candidate("b"), candidate("c"))


@pytest.fixture
def record() -> RecordedDecision:
    return recorded(request(blocks=4), BUSY)


def test_no_hash_of_the_prompt_is_recorded_only_how_many_there_were(
    record: RecordedDecision,
) -> None:
    assert str(2**63) not in encode(record).decode()
    again = routed(record.request)
    assert (len(again.blocks), set(again.blocks)) == (4, {0})
    assert [len(blocks) for blocks in again.engine_blocks.values()] == [8]


def test_a_request_that_lacks_a_newer_field_takes_its_default(record: RecordedDecision) -> None:
    facts = {k: v for k, v in record.request.facts.items() if k != "priority"}
    assert routed(replace(record.request, facts=facts)).priority == 0


def test_a_fact_that_we_no_longer_know_is_left_out(record: RecordedDecision) -> None:
    facts = {**record.request.facts, "mood": "calm"}
    assert routed(replace(record.request, facts=facts)).prompt_tokens == 1_000


@pytest.mark.parametrize(
    "facts",
    [
        {"request_id": "r", "model": "m", "prompt_tokens": "many"},
        {"request_id": "r", "model": "m"},
    ],
)
def test_a_request_that_cannot_have_been_is_refused(
    record: RecordedDecision, facts: dict[str, object]
) -> None:
    with pytest.raises(InvalidRequest, match="not a recorded request"):
        routed(replace(record.request, facts=facts))


def test_another_policy_can_be_asked_on_the_same_inputs() -> None:
    seen = (
        candidate("a", inflight=5, cached_tokens=999.0),
        candidate("b", inflight=1, queued_ms=5.0),
    )
    record = recorded(request(), seen)
    assert record.endpoint_id == "a"
    other = replay(record, "least-requests")
    assert (other.endpoint_id, other.unit) == ("b", "requests")


def test_an_unknown_policy_is_named_with_those_that_exist(record: RecordedDecision) -> None:
    with pytest.raises(ConfigError, match="round-robin"):
        replay(record, "fastest")
    with pytest.raises(ConfigError, match="gone"):
        replay(replace(record, policy=PolicyUsed("gone")))


def test_the_turn_of_round_robin_is_recalled() -> None:
    chosen = [recorded(request(), BUSY, "round-robin", warm=n) for n in range(4)]
    assert [replay(r).endpoint_id for r in chosen] == ["a", "b", "c", "a"]
    assert memory_reader(RoundRobin())() == {"last": ""}
    assert memory_reader(make_policy("expected-ttft"))() is NO_MEMORY


def test_ties_depend_on_seed_request_and_attempt_alone() -> None:
    seen = tuple(candidate(f"e{i}") for i in range(8))
    one = [recorded(request("r1"), seen, "random", seed=1) for _ in range(2)]
    assert one[0].ranking == one[1].ranking
    others = [
        recorded(request("r2"), seen, "random", seed=1),
        recorded(request("r1"), seen, "random", seed=2),
        recorded(request("r1"), seen, "random", seed=1, attempt=2),
    ]
    assert all(other.ranking != one[0].ranking for other in others)


def test_a_changed_cost_is_told_by_endpoint_and_part(record: RecordedDecision) -> None:
    changed = (replace(BUSY[0], queued_ms=901.0), *BUSY[1:])
    found = differences(replace(record, candidates=changed), replay(record))
    assert found == []  # the record's ranking is what counts
    (line,) = differences(record, replay(replace(record, candidates=changed)))
    assert line.startswith("a: cost ")
    assert "queue 900.0, now 901.0" in line
    assert "prefill" not in line


def test_another_choice_unit_and_candidates_are_told(record: RecordedDecision) -> None:
    found = "\n".join(differences(record, replay(record, "least-requests")))
    assert "costs were in ms, now in requests" in found
    gone = differences(record, replay(replace(record, candidates=BUSY[:1])))
    assert gone[0] == f"{record.endpoint_id} was chosen, now a"
    assert {"b was ranked, now is not", "c was ranked, now is not"} <= set(gone)
    more = replay(replace(record, candidates=(*BUSY, candidate("d", queued_ms=1.0))))
    assert any(line.startswith("d was not ranked") for line in differences(record, more))


def test_another_order_of_equal_costs_is_told(record: RecordedDecision) -> None:
    again = replay(record)
    first, second, *rest = again.ranking
    swapped = replace(again, ranking=(first, *rest, second))
    assert differences(record, swapped) == ["the order of equal costs is another"]


def test_one_record_and_a_gateways_answer_can_both_be_read(record: RecordedDecision) -> None:
    second = replace(record, attempt=2, endpoint_id=EndpointId("c"))
    whole = msgspec.json.encode({"object": "x", "attempts": [record, second]})
    assert decode(encode(record)) == [record]
    assert decode(whole) == [record, second]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"{}",
        b'"attempts"',
        b"\xff",
        b'{"attempts": 3}',
        b'{"attempts": [{}]}',
        b"[" * 100_000,
    ],
)
def test_anything_else_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not a recorded decision"):
        decode(data)
