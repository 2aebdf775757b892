from __future__ import annotations

from controller.fleets.restart import RestartPolicy

POLICY = RestartPolicy(limit=4, limit_before_ready=2, first_s=1.0, most_s=3.0, window_s=100.0)


def test_each_crash_doubles_the_wait_up_to_a_limit() -> None:
    waits = [POLICY.delay_s([0.0] * n, 1.0, ever_ready=True) for n in (1, 2, 3)]
    assert waits == [1.0, 2.0, 3.0]


def test_too_many_crashes_in_the_window_end_the_attempts() -> None:
    assert POLICY.delay_s([0.0] * 4, 1.0, ever_ready=True) is None


def test_old_crashes_are_forgotten() -> None:
    assert POLICY.delay_s([0.0, 0.0, 0.0, 150.0], 150.0, ever_ready=True) == 1.0


def test_one_that_never_served_is_given_up_sooner() -> None:
    assert POLICY.delay_s([0.0], 1.0, ever_ready=False) == 1.0
    assert POLICY.delay_s([0.0, 0.5], 1.0, ever_ready=False) is None
