from __future__ import annotations

import pytest

from headrace.core.ids import BlockHash, EndpointId, RequestId
from router.replica_wire import Message
from router.replicas import Heard, Inbox, Outbox, SharingLimits
from router.reserve import ReplicaId, Reserve
from tests.support.reserve_mirror import Mirror

A, B = ReplicaId("a"), ReplicaId("b")
LIMITS = SharingLimits(lost_after_s=2.0, resync_s=0.05)


def reserve(name: str, endpoint: str = "e", now_s: float = 0.0) -> Reserve:
    return Reserve(
        RequestId(name), EndpointId(endpoint), 100.0, 300.0, now_s, blocks=(BlockHash(7),)
    )


def pair(limits: SharingLimits = LIMITS, epoch: int = 1) -> tuple[Outbox, Inbox, Mirror]:
    """What A sends, what B knows, and where B puts it."""
    mirror = Mirror()
    return Outbox(A, epoch, limits), Inbox(B, mirror, limits), mirror


def hear(inbox: Inbox, messages: list[Message], now_s: float = 0.0) -> list[Heard]:
    return [inbox.heard(message, now_s) for message in messages]


def test_a_reserve_goes_its_way_from_dispatch_to_release() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r", now_s=10.0))
    hear(inbox, outbox.flush(10.5), now_s=70.0)
    told = mirror.held[A][RequestId("r")]
    assert (told.endpoint_id, told.miss_tokens, told.resident_tokens) == ("e", 100.0, 300.0)
    assert told.dispatched_s == pytest.approx(69.5)  # the reader's clock, half a second ago
    assert told.blocks == (7,)
    outbox.first_token(RequestId("r"), 10.75)
    hear(inbox, outbox.flush(11.0), now_s=71.0)
    assert mirror.first_at_s[A, RequestId("r")] == pytest.approx(70.75)
    outbox.released(RequestId("r"), 12.0)
    assert hear(inbox, outbox.flush(12.0), now_s=72.0) == [Heard.APPLIED]
    assert mirror.view(A) == {}
    assert outbox.inflight == 0


def test_news_are_as_much_older_as_they_were_under_way() -> None:
    outbox, inbox, mirror = pair()
    inbox.delay_s = 0.25
    outbox.dispatched(reserve("r", now_s=10.0))
    hear(inbox, outbox.flush(10.5), now_s=70.0)
    assert mirror.held[A][RequestId("r")].dispatched_s == pytest.approx(69.25)
    outbox.first_token(RequestId("r"), 10.75)
    hear(inbox, outbox.flush(11.0), now_s=71.0)
    assert mirror.first_at_s[A, RequestId("r")] == pytest.approx(70.5)


def test_repeats_and_strangers_are_not_told() -> None:
    outbox, _, _ = pair()
    outbox.first_token(RequestId("x"), 0.0)
    outbox.released(RequestId("x"), 0.0)
    assert not outbox.due(0.0)
    outbox.dispatched(reserve("r"))
    for _ in range(3):
        outbox.first_token(RequestId("r"), 0.0)
    for _ in range(3):
        outbox.released(RequestId("r"), 0.0)
    (message,) = outbox.flush(0.0)
    assert len(message.deltas) == 3


def test_a_flush_with_nothing_to_tell_is_a_heartbeat() -> None:
    outbox, inbox, _ = pair()
    outbox.dispatched(reserve("r"))
    hear(inbox, outbox.flush(0.0))
    (message,) = outbox.flush(0.1)
    assert (message.seq, message.deltas) == (1, ())
    assert inbox.heard(message, 0.1) is Heard.IDLE
    assert inbox.synced()


def test_a_duplicate_changes_nothing() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r"))
    messages = outbox.flush(0.0)
    assert hear(inbox, messages * 3) == [Heard.APPLIED, Heard.DUPLICATE, Heard.DUPLICATE]
    assert len(mirror.view(A)) == 1


def test_messages_out_of_order_are_put_in_order() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r"))
    first = outbox.flush(0.0)
    outbox.released(RequestId("r"), 0.1)
    second = outbox.flush(0.1)
    assert hear(inbox, second) == [Heard.EARLY]
    assert not inbox.synced()
    assert hear(inbox, first) == [Heard.APPLIED]
    assert mirror.view(A) == {}
    assert inbox.synced()


def test_a_gap_is_asked_about_and_closed_by_a_snapshot() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("kept"))
    outbox.dispatched(reserve("over"))
    hear(inbox, outbox.flush(0.0))
    outbox.released(RequestId("over"), 0.1)
    outbox.dispatched(reserve("missed"))
    outbox.first_token(RequestId("kept"), 0.1)
    outbox.flush(0.1)  # lost
    outbox.dispatched(reserve("later"))
    assert hear(inbox, outbox.flush(0.2), 0.2) == [Heard.EARLY]
    assert set(mirror.view(A)) == {"kept", "over"}, "what is known stays until better is"
    assert inbox.wants(0.2) == [A]
    assert inbox.wants(0.21) == [], "asked already"
    assert inbox.wants(0.3) == [A], "no answer came"
    outbox.snapshot_wanted()
    (snapshot,) = outbox.flush(0.3)
    assert inbox.heard(snapshot, 0.3) is Heard.SNAPSHOT
    assert set(mirror.view(A)) == {"kept", "missed", "later"}
    assert mirror.view(A)[RequestId("kept")] == ("e", 100.0, True)
    assert inbox.synced()
    assert inbox.wants(0.4) == []


def test_a_heartbeat_reveals_that_the_last_message_was_lost() -> None:
    outbox, inbox, _ = pair()
    outbox.dispatched(reserve("r"))
    outbox.flush(0.0)  # lost
    hear(inbox, outbox.flush(0.1), 0.1)
    assert inbox.wants(0.1) == [A]


def test_what_came_early_is_applied_on_top_of_the_snapshot() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("lost"))
    outbox.flush(0.0)
    outbox.snapshot_wanted()
    (snapshot,) = outbox.flush(0.1)
    outbox.released(RequestId("lost"), 0.2)
    outbox.dispatched(reserve("new"))
    assert hear(inbox, outbox.flush(0.2)) == [Heard.EARLY]
    hear(inbox, [snapshot])
    assert set(mirror.view(A)) == {"new"}
    assert inbox.synced()


def test_a_snapshot_that_is_older_than_what_is_known_changes_nothing() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r"))
    hear(inbox, outbox.flush(0.0))
    outbox.snapshot_wanted()
    (snapshot,) = outbox.flush(0.1)
    outbox.released(RequestId("r"), 0.2)
    hear(inbox, outbox.flush(0.2))
    assert inbox.heard(snapshot, 0.3) is Heard.IDLE
    assert mirror.view(A) == {}


def test_a_request_on_its_second_endpoint_is_moved_by_a_snapshot() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r", "first"))
    hear(inbox, outbox.flush(0.0))
    outbox.first_token(RequestId("r"), 0.1)
    hear(inbox, outbox.flush(0.1))
    outbox.released(RequestId("r"), 0.1)
    outbox.dispatched(reserve("r", "second"))
    outbox.flush(0.2)  # lost
    outbox.snapshot_wanted()
    hear(inbox, outbox.flush(0.2))
    assert mirror.view(A) == {"r": ("second", 100.0, False)}


def test_a_new_life_drops_what_the_old_one_had_and_old_news_are_ignored() -> None:
    outbox, inbox, mirror = pair(epoch=5)
    outbox.dispatched(reserve("old"))
    old = outbox.flush(0.0)
    hear(inbox, old)
    reborn = Outbox(A, 6, LIMITS)
    hear(inbox, reborn.flush(1.0), 1.0)
    assert mirror.view(A) == {}
    assert hear(inbox, old, 1.1) == [Heard.STALE]
    reborn.dispatched(reserve("new"))
    hear(inbox, reborn.flush(1.2), 1.2)
    assert set(mirror.view(A)) == {"new"}


def test_a_replica_that_falls_silent_loses_its_reserves() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r"))
    hear(inbox, outbox.flush(0.0), 0.0)
    assert inbox.tick(2.0) == []
    assert inbox.lags_s(2.0) == {A: 2.0}
    assert inbox.tick(2.1) == [A]
    assert mirror.view(A) == {}
    assert inbox.lags_s(2.1) == {}
    hear(inbox, outbox.flush(3.0), 3.0)  # it lives after all
    assert inbox.wants(3.0) == [A]


def test_a_gap_that_nobody_closes_ends_in_dropping_what_may_be_wrong() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r"))
    hear(inbox, outbox.flush(0.0))
    outbox.released(RequestId("r"), 0.0)
    outbox.flush(0.0)  # lost
    for tenth in range(1, 30):
        hear(inbox, outbox.flush(tenth / 10), tenth / 10)
        inbox.tick(tenth / 10)
    assert mirror.view(A) == {}


def test_our_own_messages_come_back_and_are_not_applied() -> None:
    mirror = Mirror()
    outbox, inbox = Outbox(A, 1, LIMITS), Inbox(A, mirror, LIMITS)
    outbox.dispatched(reserve("r"))
    assert hear(inbox, outbox.flush(0.0)) == [Heard.OWN]
    assert mirror.held == {}


def test_snapshots_are_no_more_frequent_than_allowed() -> None:
    outbox, _, _ = pair()
    outbox.snapshot_wanted()
    assert outbox.flush(0.0)[0].snapshot
    outbox.snapshot_wanted()
    assert not outbox.due(0.04)
    assert not outbox.flush(0.04)[0].snapshot
    assert outbox.due(0.05)
    assert outbox.flush(0.05)[0].snapshot
    assert not outbox.flush(0.2)[0].snapshot


def test_long_news_are_sent_in_several_messages() -> None:
    outbox, inbox, mirror = pair(SharingLimits(deltas=10))
    for number in range(25):
        outbox.dispatched(reserve(str(number)))
    messages = outbox.flush(0.0)
    assert [len(message.deltas) for message in messages] == [10, 10, 5]
    hear(inbox, messages)
    assert len(mirror.view(A)) == 25


def test_news_that_pile_up_are_replaced_by_a_snapshot() -> None:
    outbox, inbox, mirror = pair(SharingLimits(pending_deltas=10))
    for number in range(11):
        outbox.dispatched(reserve(str(number)))
    hear(inbox, outbox.flush(0.0))
    assert len(mirror.view(A)) == 11
    assert inbox.synced()


def test_only_so_many_blocks_replicas_and_requests_are_told_of() -> None:
    outbox, inbox, mirror = pair(SharingLimits(blocks=2, replicas=1, requests=3))
    many = tuple(BlockHash(number) for number in range(5))
    outbox.dispatched(
        Reserve(RequestId("r"), EndpointId("e"), 1.0, 1.0, 0.0, blocks=many, block_tokens=64.0)
    )
    hear(inbox, outbox.flush(0.0))
    assert mirror.held[A][RequestId("r")].blocks == many[:2]
    assert mirror.held[A][RequestId("r")].block_tokens == 64.0
    assert hear(inbox, Outbox(ReplicaId("c"), 1, LIMITS).flush(0.0)) == [Heard.CROWDED]
    for number in range(5):
        outbox.dispatched(reserve(str(number)))
    hear(inbox, outbox.flush(0.0))
    assert len(mirror.view(A)) == 3


def test_a_snapshot_has_the_load_and_not_the_blocks() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r", now_s=1.0))
    outbox.flush(1.0)  # lost
    outbox.snapshot_wanted()
    hear(inbox, outbox.flush(4.0), 50.0)
    told = mirror.held[A][RequestId("r")]
    assert told.blocks == ()
    assert told.dispatched_s == pytest.approx(47.0)


def test_who_stops_listening_drops_all_that_nobody_would_correct() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r"))
    hear(inbox, outbox.flush(0.0))
    inbox.forget(0.1)
    assert mirror.view(A) == {}
    assert inbox.lags_s(0.1) == {}


def test_a_request_on_its_second_endpoint_is_moved_even_before_its_first_token() -> None:
    outbox, inbox, mirror = pair()
    outbox.dispatched(reserve("r", "first"))
    hear(inbox, outbox.flush(0.0))
    outbox.released(RequestId("r"), 0.1)
    outbox.dispatched(reserve("r", "second"))
    outbox.flush(0.2)  # lost
    outbox.snapshot_wanted()
    hear(inbox, outbox.flush(0.2))
    assert mirror.view(A) == {"r": ("second", 100.0, False)}
