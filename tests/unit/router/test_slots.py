from __future__ import annotations

from router.slots import TIMES, Slots


def told(*reports: tuple[int, int], ended: bool = True) -> Slots:
    slots = Slots()
    for running, waiting in reports:
        if ended:
            slots.ended()
        slots.reported(running, waiting)
    return slots


def test_what_runs_while_others_wait_and_requests_end_is_all_that_may() -> None:
    assert told((100, 0), *[(256, 9)] * (TIMES - 1)).seen is None
    assert told((100, 0), *[(256, 9)] * TIMES).seen == 256


def test_nothing_is_learned_where_nobody_waits() -> None:
    assert told(*[(40, 0)] * 9).seen is None


def test_nothing_is_learned_while_nothing_ends() -> None:
    """A long prompt fills every step: others wait, and as many decode on."""
    assert told(*[(40, 2)] * 9, ended=False).seen is None


def test_fewer_that_run_although_others_wait_show_another_reason() -> None:
    assert told((40, 2), (40, 2), (39, 2), (40, 2), (40, 2), (39, 2)).seen is None
    assert told(*[(40, 2)] * 9, (12, 30), (12, 30)).seen == 40  # once shown, it stays


def test_one_more_that_runs_shows_that_it_was_not_all() -> None:
    assert told(*[(40, 2)] * 9, (41, 2)).seen is None
    assert told(*[(40, 2)] * 9, *[(64, 2)] * TIMES).seen == 64
