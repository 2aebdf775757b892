"""A recorded decision can be made again, for every policy there is."""

from hypothesis import given
from hypothesis import strategies as st

from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from router.catalog import POLICIES
from router.decide import Decision
from router.record import Happened, RecordedDecision, decode, differences, encode, replay
from tests.support.recorded import candidates, decisions, recorded, request


def _as_recorded(record: RecordedDecision, again: Decision) -> bool:
    return (again.endpoint_id, again.ranking, again.unit) == (
        record.endpoint_id,
        record.ranking,
        record.unit,
    )


@given(record=decisions())
def test_what_was_recorded_decodes_equal_and_decides_identically(record: RecordedDecision) -> None:
    (read,) = decode(encode(record))
    assert read == record
    again = replay(read)
    assert _as_recorded(record, again)
    assert differences(read, again) == []


@given(seen=candidates(), warm=st.integers(0, 12), attempt=st.integers(1, 3))
def test_every_policy_of_the_catalogue_can_be_run_again(
    seen: tuple[object, ...], warm: int, attempt: int
) -> None:
    for policy in POLICIES:
        record = recorded(request(), seen, policy, warm=warm, seed=7, attempt=attempt)  # type: ignore[arg-type]
        (read,) = decode(encode(record))
        assert _as_recorded(record, replay(read)), policy


@given(
    record=decisions(),
    ttft_s=st.none() | st.floats(0, 1e4),
    outcome=st.sampled_from(Outcome),
    cached=st.integers(0, 10**6),
)
def test_what_happened_is_kept_exactly(
    record: RecordedDecision, ttft_s: float | None, outcome: Outcome, cached: int
) -> None:
    from dataclasses import replace

    whole = replace(record, happened=Happened(outcome, ttft_s, Usage(10**6, 3, cached)))
    assert decode(encode(whole)) == [whole]
