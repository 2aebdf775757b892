from __future__ import annotations

from dataclasses import replace

from controller.fleets.ray.names import ReplicaName
from controller.fleets.ray.plan import Phase
from controller.fleets.ray.reports import Engine, Report, encode, read_report
from controller.fleets.ray.sight import Limits, Look, Sight, endpoint_of, looked, status_of
from controller.fleets.unit import UnitState
from headrace.core.endpoint import Health, KvEventSource, Role, Speed
from headrace.core.ids import ModelName

NAME = ReplicaName("f", 0, "r", "t")
LIMITS = Limits(lost_after_s=30.0, start_s=100.0)
ENGINE = Engine("sim.2", "http://10.0.0.1:9", "decode", True, "tcp://10.0.0.1:1", None, "kv")
READY = Report(Phase.READY, "10.0.0.1", ENGINE, pid=7, log="/l", crashes=2)
SILENT = Look(supervised=True, placed=True)


def look(report: Report | None = None, before: Sight | None = None, now_s: float = 0.0) -> Sight:
    return looked(before, NAME, Look(True, True, report), now_s, LIMITS)


def test_without_room_it_waits_and_nobody_is_late() -> None:
    sight = looked(None, NAME, Look(True, False), 0.0, LIMITS)
    sight = looked(sight, NAME, Look(True, False), 9_999.0, LIMITS)
    assert (sight.phase, sight.since_s) == (Phase.WAITING, 0.0)


def test_with_room_its_supervisor_has_the_time_of_a_start_to_answer() -> None:
    sight = look(now_s=5.0)
    assert sight.phase is Phase.GATHERING
    assert look(before=sight, now_s=104.9).phase is Phase.GATHERING
    assert look(before=sight, now_s=105.0).phase is Phase.LOST


def test_one_that_answered_is_lost_only_after_a_silence() -> None:
    sight = look(READY, now_s=5.0)
    quiet = look(before=sight, now_s=34.9)
    assert quiet.phase is Phase.READY
    assert endpoint_of(quiet, ModelName("m"), Speed()) is not None
    lost = look(before=sight, now_s=35.0)
    assert lost.phase is Phase.LOST
    assert "silent for 30.0 s" in lost.why


def test_one_that_ray_knows_to_be_dead_is_lost_at_once() -> None:
    sight = look(READY)
    for dead in (Look(False, True), Look(True, True, died=True)):
        assert looked(sight, NAME, dead, 0.1, LIMITS).phase is Phase.LOST


def test_a_group_that_loses_its_room_is_a_broken_replica() -> None:
    sight = looked(look(READY), NAME, Look(True, False), 1.0, LIMITS)
    assert sight.phase is Phase.BROKEN
    assert endpoint_of(sight, ModelName("m"), Speed()) is None


def test_it_serves_once_it_has_generated_for_us() -> None:
    sight = look(READY)
    assert not sight.serves
    assert not sight.seen().proven
    assert status_of(sight, None).state is UnitState.STARTING
    assert replace(sight, proven=True).serves


def test_each_life_of_an_engine_is_another_endpoint() -> None:
    view = endpoint_of(look(READY), ModelName("m"), Speed())
    assert view is not None
    assert view.endpoint_id == "f-0-t.2"
    assert view.url == "http://10.0.0.1:9"
    assert view.role is Role.DECODE
    assert view.simulated
    assert view.kv_events == KvEventSource("tcp://10.0.0.1:1", None, "kv")
    first = look(Report(Phase.STARTING, "n", Engine("sim", "http://n:1", "both", True)))
    view = endpoint_of(first, ModelName("m"), Speed())
    assert view is not None
    assert view.endpoint_id == "f-0-t"
    assert view.kv_events is None


def test_one_that_drains_gets_nothing_new() -> None:
    draining = replace(look(READY), draining_since_s=1.0)
    view = endpoint_of(draining, ModelName("m"), Speed())
    assert view is not None
    assert view.health is Health.DRAINING
    assert status_of(draining, view).state is UnitState.STOPPING


def test_one_whose_supervisor_is_stopping_drains_for_all_who_look() -> None:
    view = endpoint_of(look(reported(Phase.STOPPING)))
    assert view is not None
    assert view.health is Health.DRAINING
    view = endpoint_of(look(reported(Phase.READY)))
    assert view is not None
    assert view.health is Health.READY


def reported(phase: Phase) -> Report:
    return Report(phase, "10.0.0.1", ENGINE)


def test_what_its_supervisor_says_of_the_engine_wins_over_what_is_presumed() -> None:
    said = Engine("sim", "http://n:1", "both", True, models=("m", "ad"), speed=Speed(kv_tokens=7))
    told = look(read_report(encode(Report(Phase.READY, "n", said))))
    view = endpoint_of(told, ModelName("other"), Speed(kv_tokens=9))
    assert view is not None
    assert (view.models, view.speed) == (("m", "ad"), Speed(kv_tokens=7))
    view = endpoint_of(look(READY))
    assert view is not None
    assert (view.models, view.speed) == ((), Speed()), "a supervisor of an earlier version"


def test_a_report_of_a_later_version_is_read() -> None:
    data = encode(Report(Phase.READY, "n", engine_of(Speed(kv_tokens=7))))
    later = data.replace(b'"kv_tokens":7', b'"kv_tokens":7,"warp":9').replace(b"{", b'{"new":1,', 1)
    assert b'"warp"' in later
    assert read_report(later) == read_report(data)


def engine_of(speed: Speed) -> Engine:
    return Engine("sim", "http://n:1", "both", True, speed=speed)


def test_one_that_has_served_for_a_moment_only_replaces_no_other_yet() -> None:
    sight = replace(look(READY), proven=True, proven_at_s=10.0)
    assert sight.seen().proven
    assert sight.seen(10.0).proven
    assert not sight.seen(9.9).proven


def test_its_status_is_in_the_words_of_every_fleet() -> None:
    sight = replace(look(READY), proven=True)
    status = status_of(sight, endpoint_of(sight, ModelName("m"), Speed()))
    assert (status.name, status.state, status.pid) == ("f-0-t", UnitState.READY, 7)
    assert (status.node, str(status.log), status.crashes) == ("10.0.0.1", "/l", 2)
    waiting = looked(None, NAME, Look(False, False), 0.0, LIMITS)
    assert status_of(waiting, None).endpoints == ()
