from __future__ import annotations

from headrace.service.kube.event_log import EventLimits, EventLog, Happening, Told


def happening(note: str = "it broke", uid: str = "u", reason: str = "Broken") -> Happening:
    return Happening({"metadata": {"name": "x", "uid": uid}}, "Warning", reason, note)


def written(log: EventLog, now_s: float) -> list[Told]:
    found = []
    while (told := log.take(now_s)) is not None:
        told.name = told.name or f"event-{id(told)}"
        found.append(told)
    return found


def test_what_repeats_is_written_at_once_and_then_counted_every_so_often() -> None:
    log = EventLog(EventLimits(repeat_s=30.0))
    log.tell(happening(), 0.0)
    (first,) = written(log, 0.0)
    assert first.count == 1
    for second in range(1, 25):
        log.tell(happening(), float(second))
        assert written(log, float(second)) == []
    assert log.next_s() == 30.0
    assert written(log, 30.0) == [first]
    assert first.count == 25
    assert log.next_s() is None


def test_what_was_not_seen_for_a_window_is_told_anew() -> None:
    log = EventLog(EventLimits(window_s=600.0))
    log.tell(happening(), 0.0)
    (first,) = written(log, 0.0)
    log.tell(happening(), 600.0)
    assert written(log, 600.0) == [first]
    log.tell(happening(), 1_201.0)
    (anew,) = written(log, 1_201.0)
    assert anew is not first
    assert anew.count == 1


def test_messages_that_always_differ_become_a_few_events() -> None:
    log = EventLog(EventLimits(notes=3, repeat_s=10.0))
    for number in range(50):
        log.tell(happening(f"{number} of 50 ready"), float(number) / 10.0)
        written(log, float(number) / 10.0)
    told = written(log, 100.0)
    assert [each.first.note for each in told] == ["2 of 50 ready"]
    assert told[0].count == 48


def test_objects_and_reasons_are_told_apart() -> None:
    log = EventLog()
    for each in (happening(), happening(uid="v"), happening(reason="Mended")):
        log.tell(each, 0.0)
    assert len(written(log, 0.0)) == 3


def test_memory_is_bounded_and_what_is_lost_is_counted() -> None:
    log = EventLog(EventLimits(subjects=10))
    for number in range(25):
        log.tell(happening(uid=str(number)), 0.0)
    assert log.dropped == 15
    assert [told.first.subject[0] for told in written(log, 0.0)] == [str(n) for n in range(15, 25)]
