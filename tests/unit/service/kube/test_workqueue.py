from __future__ import annotations

from headrace.service.kube.backoff import Backoff
from headrace.service.kube.workqueue import Queue


def queue() -> Queue[str]:
    return Queue(Backoff(first_s=1.0, most_s=8.0))


def taken(keys: Queue[str], now_s: float = 0.0) -> list[str]:
    found = []
    while (one := keys.take(now_s)) is not None:
        found.append(one[0])
    return found


def test_a_key_added_often_is_taken_once_in_the_order_of_first_adding() -> None:
    keys = queue()
    for key in ("b", "a", "b", "c", "a"):
        keys.add(key, 0.0)
    assert taken(keys) == ["b", "a", "c"]


def test_a_key_added_while_it_is_worked_on_waits_and_is_worked_on_once_more() -> None:
    keys = queue()
    keys.add("a", 0.0)
    assert taken(keys) == ["a"]
    keys.add("a", 1.0)
    keys.add("a", 2.0)
    assert taken(keys, 3.0) == []
    keys.done("a")
    assert keys.take(4.0) == ("a", 3.0)
    keys.done("a")
    assert taken(keys, 5.0) == []


def test_a_delayed_key_comes_at_the_earliest_time_that_was_asked_for() -> None:
    keys = queue()
    keys.add_at("a", 10.0)
    keys.add_at("a", 5.0)
    keys.add_at("a", 7.0)
    assert keys.next_due_s() == 5.0
    assert taken(keys, 4.9) == []
    assert keys.take(6.0) == ("a", 1.0)
    keys.done("a")
    assert taken(keys, 100.0) == []


def test_work_that_begins_forgets_the_time_to_come_back_at() -> None:
    keys = queue()
    keys.add_at("a", 10.0)
    keys.add("a", 1.0)
    assert taken(keys, 1.0) == ["a"]
    keys.done("a")
    assert keys.next_due_s() is None


def test_a_key_that_is_due_while_it_is_worked_on_waits_for_the_end_of_that() -> None:
    keys = queue()
    keys.add("a", 0.0)
    assert taken(keys) == ["a"]
    keys.add_at("a", 1.0)
    assert taken(keys, 2.0) == []
    keys.done("a")
    assert taken(keys, 2.0) == ["a"]


def test_failures_in_a_row_double_the_wait_up_to_a_bound_and_success_forgets_them() -> None:
    keys = queue()
    now_s, waits = 0.0, []
    keys.add("a", now_s)
    for _ in range(6):
        assert taken(keys, now_s) == ["a"]
        waits.append(keys.failed("a", now_s))
        assert taken(keys, now_s + waits[-1] - 0.01) == []
        now_s += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert taken(keys, now_s) == ["a"]
    keys.done("a")
    assert keys.failures("a") == 0


def test_a_change_does_not_wait_for_the_end_of_a_backoff() -> None:
    keys = queue()
    keys.add("a", 0.0)
    assert taken(keys) == ["a"]
    keys.failed("a", 0.0)
    keys.add("a", 0.1)
    assert taken(keys, 0.1) == ["a"]
    assert keys.failed("a", 0.1) == 2.0


def test_work_that_was_broken_off_is_still_to_be_done_and_failures_are_kept() -> None:
    keys = queue()
    keys.add("a", 0.0)
    assert taken(keys) == ["a"]
    keys.failed("a", 0.0)
    assert taken(keys, 1.0) == ["a"]
    keys.put_back("a", 1.0)
    assert taken(keys, 1.0) == ["a"]
    assert keys.failures("a") == 1


def test_a_wait_stays_bounded_however_many_failures_there_were() -> None:
    assert Backoff(0.1, 60.0).full_s(10_000) == 60.0


def test_times_that_are_out_of_date_do_not_pile_up() -> None:
    keys = queue()
    for turn in range(10_000):
        keys.add("a", 0.0)
        assert taken(keys) == ["a"]
        keys.done("a")
        keys.add_at("a", 1_000.0 + turn)
    assert len(keys._heap) < 100
    assert keys.next_due_s() == 10_999.0
