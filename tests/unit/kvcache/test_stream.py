"""Numbered batches in, ordered changes out; what is lost for good is forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kvcache.changes import Change, Cleared, Forgotten, Removed, SchemeKnown, Stored, Tier
from kvcache.events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    EventBatch,
    KvEvent,
    encode_batch,
)
from kvcache.stream import EventStream, Position, Replay, StreamLimits, StreamState


def stored(*names: int) -> BlockStored:
    return BlockStored(list(names), 1, [], 16, None, "GPU", None)


def batch(number: int, *events: KvEvent, ts: float | None = None) -> bytes:
    """Batch ``number`` stores block ``100 + number`` unless told otherwise."""
    return encode_batch(
        EventBatch(float(number) if ts is None else ts, list(events or [stored(100 + number)]), 0)
    )


def names(changes: Sequence[Change]) -> list[int]:
    return [name for change in changes if isinstance(change, Stored) for name in change.hashes]


def forgets(changes: Sequence[Change]) -> bool:
    return Forgotten() in changes


def synced(last: int = 2, **limits: int) -> EventStream:
    """Return a stream that has applied batches 0 to ``last``."""
    stream = EventStream(replays=True, limits=StreamLimits(**limits))
    assert stream.connected() == []
    request = stream.take_request()
    assert request == Replay(1, 0)
    for seq in range(last + 1):
        assert names(stream.replayed(1, seq, batch(seq), 0.0)) == [100 + seq]
    assert stream.replay_ended(1) == []
    assert stream.state is StreamState.SYNCED
    return stream


def test_a_first_connection_asks_for_everything() -> None:
    stream = synced(4)
    assert stream.position is not None
    assert stream.position.seq == 4
    assert stream.counters.applied == 5


def test_batches_in_order_are_applied_and_time_is_kept() -> None:
    stream = synced()
    assert names(stream.live(3, batch(3), 7.5)) == [103]
    assert (stream.heard_s, stream.engine_s) == (7.5, 3.0)


def test_live_batches_wait_for_the_replay_and_come_once() -> None:
    stream = EventStream(replays=True)
    stream.connected()
    assert stream.live(1, batch(1), 0.0) == []
    assert stream.live(2, batch(2), 0.0) == []
    assert stream.live(2, batch(2), 0.0) == []
    assert names(stream.replayed(1, 0, batch(0), 0.0)) == [100]
    assert names(stream.replayed(1, 1, batch(1), 0.0)) == [101]
    assert names(stream.replay_ended(1)) == [102]
    assert stream.counters.duplicates == 2


def test_copies_and_late_batches_are_ignored() -> None:
    stream = synced(9, recent_batches=3)
    assert stream.live(8, batch(8), 0.0) == []
    assert stream.live(1, batch(1), 0.0) == []  # its digest is no longer known: its time tells
    assert stream.counters.duplicates == 2
    assert stream.counters.restarts == 0


def test_a_gap_asks_for_what_is_missing_and_keeps_what_came() -> None:
    stream = synced(2)
    assert stream.live(4, batch(4), 0.0) == []
    assert stream.take_request() == Replay(2, 2)  # the last one again: is it still the same?
    assert stream.take_request() is None
    assert stream.state is StreamState.REPLAYING
    assert stream.replayed(2, 2, batch(2), 0.0) == []
    assert names(stream.replayed(2, 3, batch(3), 0.0)) == [103]
    assert names(stream.replay_ended(2)) == [104]
    assert (stream.counters.gaps, stream.counters.resyncs) == (1, 0)


def test_a_gap_that_the_replay_does_not_fill_forgets_what_was_before_it() -> None:
    stream = synced(2)
    stream.live(4, batch(4), 0.0)
    stream.live(5, batch(5), 0.0)
    assert stream.replayed(2, 2, batch(2), 0.0) == []
    changes = stream.replay_ended(2)
    assert forgets(changes)
    assert names(changes) == [104, 105]
    assert stream.counters.resyncs == 1


def test_a_replay_that_begins_too_late_forgets_what_was_before_it() -> None:
    stream = synced(2)
    stream.live(7, batch(7), 0.0)
    changes = stream.replayed(2, 5, batch(5), 0.0)
    assert changes[0] == Forgotten()
    assert names(changes) == [105]
    assert names(stream.replayed(2, 6, batch(6), 0.0)) == [106]
    assert names(stream.replay_ended(2)) == [107]


def test_a_replay_that_begins_right_behind_cannot_show_that_it_is_the_same_life() -> None:
    stream = synced(2)
    stream.live(5, batch(5), 0.0)
    assert forgets(stream.replayed(2, 3, batch(3), 0.0))


def test_a_replay_given_up_forgets_and_is_made_up_for_at_the_next_check() -> None:
    stream = synced(2)
    stream.live(4, batch(4), 0.0)
    changes = stream.replay_failed(2)
    assert changes[0] == Forgotten()
    assert names(changes) == [104]
    assert stream.replayed(2, 3, batch(3), 0.0) == []  # an answer after all, too late
    assert names(stream.live(5, batch(5), 0.0)) == [105]
    assert stream.check_up() == [Forgotten()]
    assert stream.take_request() == Replay(3, 0)


def test_more_than_may_be_held_gives_the_replay_up() -> None:
    stream = synced(2, held_batches=2)
    for seq in (4, 5):
        assert stream.live(seq, batch(seq), 0.0) == []
    changes = stream.live(6, batch(6), 0.0)
    assert changes[0] == Forgotten()
    assert names(changes) == [104, 105, 106]
    assert stream.counters.failed_replays == 1


def test_more_bytes_than_may_be_held_give_the_replay_up() -> None:
    stream = synced(2, held_bytes=len(batch(4)))
    assert stream.live(4, batch(4), 0.0) == []
    assert forgets(stream.live(5, batch(5), 0.0))


def test_a_lower_number_with_new_content_is_a_new_life() -> None:
    stream = synced(2)
    changes = stream.live(0, batch(0, stored(900), ts=50.0), 0.0)
    assert changes == [Forgotten()]
    assert stream.take_request() == Replay(2, 0)
    assert names(stream.replayed(2, 0, batch(0, stored(900), ts=50.0), 0.0)) == [900]
    assert stream.replay_ended(2) == []
    assert stream.counters.restarts == 1


def test_a_new_life_is_seen_by_its_time_where_the_old_batch_is_forgotten() -> None:
    stream = synced(9, recent_batches=2)
    assert stream.live(1, batch(1, ts=50.0), 0.0) == [Forgotten()]


def test_a_new_life_that_counted_past_the_old_one_is_seen_in_the_replay() -> None:
    stream = synced(2)
    assert stream.connected() == []
    assert stream.take_request() == Replay(2, 2)
    assert stream.live(6, batch(6, ts=56.0), 0.0) == []
    assert stream.replayed(2, 2, batch(2, stored(902), ts=52.0), 0.0) == [Forgotten()]
    assert stream.take_request() == Replay(3, 0)
    assert stream.replayed(2, 3, batch(3), 0.0) == []  # the rest of the old answer
    for seq in range(7):
        stream.replayed(3, seq, batch(seq, stored(900 + seq), ts=50.0 + seq), 0.0)
    assert stream.replay_ended(3) == []
    assert stream.position is not None
    assert stream.position.seq == 6


def test_a_new_life_that_has_not_come_so_far_is_seen_by_an_empty_replay() -> None:
    stream = synced(2)
    stream.check_up()
    assert stream.replay_ended(2) == [Forgotten()]
    assert stream.take_request() == Replay(3, 0)
    assert stream.replay_ended(3) == []
    assert names(stream.live(0, batch(0, ts=50.0), 0.0)) == [100]


def test_what_follows_is_applied_while_a_check_up_is_under_way() -> None:
    stream = synced(2)
    stream.check_up()
    assert stream.take_request() == Replay(2, 2)
    assert names(stream.live(3, batch(3), 0.0)) == [103]
    assert names(stream.live(4, batch(4), 0.0)) == [104]
    for seq in (2, 3, 4):  # the engine answers only now
        assert stream.replayed(2, seq, batch(seq), 0.0) == []
    assert stream.replay_ended(2) == []
    assert stream.state is StreamState.SYNCED
    assert names(stream.live(5, batch(5), 0.0)) == [105]
    assert stream.counters.applied == 6


def test_a_check_up_still_finds_what_was_lost_before_what_follows() -> None:
    stream = synced(2)
    stream.check_up()
    assert stream.live(4, batch(4), 0.0) == []
    assert stream.live(3, batch(3), 0.0) == []  # late, but the replay has it too
    answers: list[tuple[int, list[int]]] = [(2, []), (3, [103]), (4, [104])]
    for seq, found in answers:
        assert names(stream.replayed(2, seq, batch(seq), 0.0)) == found
    assert stream.replay_ended(2) == []
    assert stream.position is not None
    assert stream.position.seq == 4


def test_a_new_life_that_seems_to_follow_is_found_by_the_check_up() -> None:
    stream = synced(2)
    stream.check_up()
    assert names(stream.live(3, batch(3, stored(903), ts=53.0), 0.0)) == [903]
    assert stream.replayed(2, 2, batch(2, stored(902), ts=52.0), 0.0) == [Forgotten()]
    assert stream.take_request() == Replay(3, 0)


def test_a_check_up_lets_no_more_pass_than_it_can_compare() -> None:
    stream = synced(2, recent_batches=2)
    stream.check_up()
    assert names(stream.live(3, batch(3), 0.0)) == [103]
    assert stream.live(4, batch(4), 0.0) == []
    assert stream.replayed(2, 2, batch(2), 0.0) == []
    assert stream.replayed(2, 3, batch(3), 0.0) == []
    assert names(stream.replay_ended(2)) == [104]


def test_a_reconnection_holds_what_seems_to_follow() -> None:
    stream = synced(2)
    stream.connected()
    assert stream.live(3, batch(3), 0.0) == []


def test_a_number_held_twice_with_other_content_is_a_new_life() -> None:
    stream = synced(2)
    stream.live(4, batch(4), 0.0)
    assert stream.live(4, batch(4, stored(904), ts=60.0), 0.0) == [Forgotten()]
    assert stream.take_request() == Replay(3, 0)


def test_a_late_batch_of_the_old_life_does_not_come_back_in_the_new_one() -> None:
    stream = synced(2)
    stream.live(0, batch(0, stored(900), ts=50.0), 0.0)
    stream.replayed(2, 0, batch(0, stored(900), ts=50.0), 0.0)
    stream.live(3, batch(3), 0.0)  # of the old life, in the middle of the replay
    assert stream.replay_ended(2) == []
    assert stream.position is not None
    assert stream.position.seq == 0


def test_an_engine_that_is_gone_is_forgotten_with_its_scheme_and_begun_anew() -> None:
    stream = synced(2)
    assert stream.lost() == [Forgotten()]
    assert stream.connected() == []
    assert stream.take_request() == Replay(2, 0)
    assert names(stream.replayed(2, 0, batch(0, ts=50.0), 0.0)) == [100]


def test_without_replay_any_batch_may_be_the_first_and_a_gap_forgets() -> None:
    stream = EventStream(replays=False)
    assert stream.connected() == []
    assert names(stream.live(7, batch(7), 0.0)) == [107]
    changes = stream.live(9, batch(9), 0.0)
    assert changes[0] == Forgotten()
    assert names(changes) == [109]
    assert stream.check_up() == []
    changes = stream.live(0, batch(0, ts=50.0), 0.0)
    assert changes[0] == Forgotten()
    assert names(changes) == [100]
    assert stream.connected() == [Forgotten()]
    assert stream.take_request() is None


def test_a_stream_resumes_where_an_earlier_one_ended() -> None:
    position = synced(2).position
    assert position is not None
    stream = EventStream(replays=True, resume=position)
    stream.connected()
    assert stream.take_request() == Replay(1, 2)
    assert stream.replayed(1, 2, batch(2), 0.0) == []
    assert names(stream.replayed(1, 3, batch(3), 0.0)) == [103]


def test_a_stream_that_resumes_on_another_life_forgets() -> None:
    stream = EventStream(replays=True, resume=Position(2, 12345))
    stream.connected()
    assert stream.replayed(1, 2, batch(2), 0.0) == [Forgotten()]


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x01\x91\x81\xa4type\xa3New\xc0"])
def test_a_batch_that_cannot_be_read_forgets_and_the_next_one_goes_on(payload: bytes) -> None:
    stream = synced(2)
    assert stream.live(3, payload, 0.0) == [Forgotten()]
    assert names(stream.live(4, batch(4), 0.0)) == [104]
    assert stream.counters.malformed == 1


def test_a_negative_number_is_no_batch() -> None:
    stream = synced(2)
    assert stream.live(-1, batch(3), 0.0) == []
    assert stream.counters.malformed == 1


def test_events_become_changes_in_order_and_removals_are_joined() -> None:
    stream = synced(0)
    payload = batch(
        1,
        BlockRemoved([5], "GPU", group_idx=0),
        BlockRemoved([4], "GPU"),
        BlockRemoved([3], "CPU"),
        stored(8, 9),
        BlockRemoved([2], "STORAGE"),
        AllBlocksCleared(),
        BlockRemoved([1], None),
    )
    assert stream.live(1, payload, 0.0) == [
        Removed(Tier.GPU, [5, 4]),
        Removed(Tier.CPU, [3]),
        Stored(Tier.GPU, [8, 9], 1),
        Removed(Tier.DISK, [2]),
        Cleared(),
        Removed(Tier.GPU, [1]),
    ]


def test_names_of_32_bytes_are_cut_to_the_same_64_bits() -> None:
    stream = synced(0)
    event = BlockStored(
        [bytes(24) + (7).to_bytes(8, "big")], bytes(31) + b"\x01", [], 16, None, "GPU", None
    )
    assert stream.live(1, batch(1, event), 0.0) == [Stored(Tier.GPU, [7], 1)]


def test_a_hybrid_models_window_groups_neither_add_nor_take_away() -> None:
    def of(group: int, kind: str, *hashes: int) -> BlockStored:
        event = stored(*hashes)
        return BlockStored(event.block_hashes, 1, [], 16, None, "GPU", None, None, group, kind)

    stream = synced(0)
    changes = stream.live(
        1,
        batch(
            1,
            of(0, "sliding_window", 1, 2),
            of(1, "full_attention", 1, 2),
            of(2, "full_attention", 1, 2),
            BlockRemoved([1], "GPU", group_idx=0),
            BlockRemoved([2], "GPU", group_idx=2),
        ),
        0.0,
    )
    assert changes == [Stored(Tier.GPU, [1, 2], 1), Removed(Tier.GPU, [2])]


def test_the_scheme_is_told_once_per_life() -> None:
    from kvcache.hashing import BlockHasher, external

    tokens = list(range(16))
    told = [external(digest) for digest in BlockHasher(16).hashes(tokens)]

    def start(seq: int, ts: float) -> bytes:
        return batch(seq, BlockStored(list(told), None, tokens, 16, None, "GPU", None), ts=ts)

    stream = EventStream(replays=True)
    stream.connected()
    changes = stream.replayed(1, 0, start(0, 1.0), 0.0)
    assert [type(change) for change in changes] == [SchemeKnown, Stored]
    assert [type(change) for change in stream.replayed(1, 1, start(1, 2.0), 0.0)] == [Stored]
    stream.replay_ended(1)
    assert stream.lost() == [Forgotten(), SchemeKnown(None)]
