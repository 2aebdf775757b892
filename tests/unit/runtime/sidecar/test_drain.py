from __future__ import annotations

from headrace.runtime.sidecar.drain import Drain


def test_an_engine_must_be_idle_for_all_of_the_settling_time() -> None:
    drain = Drain(began_s=0.0, settle_s=2.0, limit_s=60.0)
    assert drain.over(0.0) is None
    drain = drain.saw(0, 0, 1.0)
    assert drain.over(2.9) is None
    drain = drain.saw(1, 0, 2.9)
    assert drain.over(3.5) is None
    drain = drain.saw(0, 1, 4.0).saw(0, 0, 5.0).saw(0, 0, 6.0)
    assert drain.over(6.9) is None
    assert drain.over(7.0) == "idle"
    assert (drain.running, drain.waiting, drain.looks) == (0, 0, 5)


def test_the_limit_ends_every_wait() -> None:
    drain = Drain(began_s=10.0, settle_s=2.0, limit_s=5.0).saw(3, 1, 11.0)
    assert drain.over(14.9) is None
    assert drain.over(15.0) == "limit"


def test_an_engine_that_does_not_tell_its_load_is_not_idle() -> None:
    drain = Drain(began_s=0.0, settle_s=0.0, limit_s=5.0).saw(0, 0, 1.0).saw(None, None, 2.0)
    assert drain.over(2.0) is None


def test_without_settling_time_the_first_idle_look_ends_it() -> None:
    assert Drain(0.0, 0.0, 5.0).over(0.0) is None
    assert Drain(0.0, 0.0, 5.0).saw(0, 0, 0.1).over(0.1) == "idle"
