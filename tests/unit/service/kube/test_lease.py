from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.errors import ConfigError
from headrace.service.kube.lease import (
    Lease,
    Move,
    Standing,
    Terms,
    claimed,
    decide,
    given_back,
    lease_of,
    object_of,
    saw,
    wrote,
)

TERMS = Terms(duration_s=15, renew_s=10.0, retry_s=2.0)
NOW = "2026-11-24T12:00:00.000000Z"
THEIRS = Lease("b", 15, 3, NOW, "7")


def test_a_lease_that_is_not_there_is_created() -> None:
    assert decide(Standing(), "a", 0.0) is Move.CREATE


def test_a_lease_of_another_is_left_alone_until_it_has_not_changed_for_its_whole_duration() -> None:
    standing = saw(Standing(), THEIRS, 100.0)
    assert decide(standing, "a", 114.9) is Move.WAIT
    assert decide(standing, "a", 115.0) is Move.TAKE


def test_the_time_in_a_lease_is_not_believed() -> None:
    old = replace(THEIRS, acquired="1970-01-01T00:00:00.000000Z")
    assert decide(saw(Standing(), old, 100.0), "a", 100.0) is Move.WAIT


def test_a_renewal_that_is_seen_starts_the_wait_anew_and_seeing_nothing_new_does_not() -> None:
    standing = saw(Standing(), THEIRS, 100.0)
    standing = saw(standing, THEIRS, 110.0)
    assert decide(standing, "a", 115.0) is Move.TAKE
    standing = saw(standing, replace(THEIRS, version="8"), 112.0)
    assert decide(standing, "a", 126.0) is Move.WAIT


def test_what_the_holder_promised_counts_and_not_our_own_terms() -> None:
    standing = saw(Standing(), replace(THEIRS, duration_s=60), 0.0)
    assert decide(standing, "a", 59.0) is Move.WAIT
    assert decide(standing, "a", 60.0) is Move.TAKE


def test_a_lease_that_was_given_back_is_taken_at_once() -> None:
    standing = saw(Standing(), given_back(THEIRS), 100.0)
    assert decide(standing, "a", 100.0) is Move.TAKE


def test_a_leader_leads_from_when_it_sent_the_write_however_late_the_answer_came() -> None:
    ours = claimed(THEIRS, "a", TERMS, NOW)
    standing = wrote(Standing(), ours, "a", 50.0, TERMS)
    assert standing.leads(59.9)
    assert not standing.leads(60.0)


def test_a_leader_renews_and_one_that_no_longer_leads_takes_its_own_lease_again() -> None:
    standing = wrote(Standing(), claimed(THEIRS, "a", TERMS, NOW), "a", 0.0, TERMS)
    assert decide(standing, "a", 2.0) is Move.RENEW
    assert decide(standing, "a", 11.0) is Move.TAKE


def test_reading_neither_makes_anybody_lead_nor_for_longer() -> None:
    ours = claimed(THEIRS, "a", TERMS, NOW)
    assert not saw(Standing(), ours, 0.0).leads(0.0)
    standing = wrote(Standing(), ours, "a", 0.0, TERMS)
    standing = saw(standing, replace(ours, version="99"), 9.0)
    assert standing.leads(9.9)
    assert not standing.leads(10.0)


def test_a_leader_stops_when_it_reads_that_another_has_the_lease_or_that_it_is_gone() -> None:
    leading = wrote(Standing(), claimed(THEIRS, "a", TERMS, NOW), "a", 0.0, TERMS)
    assert not saw(leading, replace(THEIRS, version="99"), 1.0).leads(1.0)
    assert not saw(leading, None, 1.0).leads(1.0)


def test_giving_it_back_ends_leading() -> None:
    ours = claimed(THEIRS, "a", TERMS, NOW)
    leading = wrote(Standing(), ours, "a", 0.0, TERMS)
    assert not wrote(leading, given_back(ours), "a", 1.0, TERMS).leads(1.0)


def test_changes_of_the_holder_are_counted_and_renewals_are_not() -> None:
    taken = claimed(THEIRS, "a", TERMS, NOW)
    assert (taken.transitions, taken.version) == (4, "7")
    assert claimed(taken, "a", TERMS, "later") == taken


def test_an_object_says_the_same_as_the_lease_it_was_made_of() -> None:
    obj = object_of(THEIRS, "ns", "x", NOW)
    assert lease_of(obj) == THEIRS
    assert obj["metadata"] == {"name": "x", "namespace": "ns", "resourceVersion": "7"}


def test_a_new_object_has_no_version() -> None:
    obj = object_of(claimed(None, "a", TERMS, NOW), "ns", "x", NOW)
    assert "resourceVersion" not in obj["metadata"]


def test_a_lease_made_by_hand_without_any_field_may_be_taken() -> None:
    lease = lease_of({"metadata": {"name": "x", "resourceVersion": "1"}})
    assert decide(saw(Standing(), lease, 0.0), "a", 0.0) is Move.TAKE


@pytest.mark.parametrize("terms", [(10, 10.0, 2.0), (15, 2.0, 2.0), (15, 10.0, 0.0)])
def test_terms_that_leave_no_time_to_stop_in_are_refused(terms: tuple[int, float, float]) -> None:
    with pytest.raises(ConfigError, match="retry_s < renew_s < duration_s"):
        Terms(*terms)
