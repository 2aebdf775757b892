from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.endpoint import Health, Speed
from headrace.core.ids import ModelName
from headrace.runtime.metrics_text import EngineReport
from headrace.runtime.vital_signs import (
    Sight,
    VitalSigns,
    measured_speed,
    reported,
    saw,
    stuck,
)

SERVING = VitalSigns(proven=True, models=(ModelName("m"),))


def test_an_endpoint_that_only_answers_health_is_not_ready() -> None:
    seen = replace(saw(VitalSigns(), Sight.HEALTHY, 3), models=(ModelName("m"),))
    assert seen.health is Health.DOWN
    assert seen.needs_proof


def test_a_proven_endpoint_is_ready_and_needs_no_second_proof() -> None:
    assert SERVING.health is Health.READY
    assert not SERVING.needs_proof


def test_slow_answers_are_forgiven_until_there_are_too_many_in_a_row() -> None:
    signs = SERVING
    for _ in range(2):
        signs = saw(signs, Sight.UNHEALTHY, 3)
        assert signs.health is Health.READY
    assert saw(saw(signs, Sight.HEALTHY, 3), Sight.UNHEALTHY, 3).health is Health.READY
    assert saw(signs, Sight.UNHEALTHY, 3).health is Health.DOWN


def test_a_refused_connection_is_down_at_once() -> None:
    assert saw(SERVING, Sight.REFUSED, 3).health is Health.DOWN


def test_one_that_was_down_must_prove_itself_again_and_keeps_its_speed() -> None:
    down = saw(replace(SERVING, speed=Speed(5.0, 7)), Sight.REFUSED, 3)
    back = replace(saw(down, Sight.HEALTHY, 3), models=SERVING.models)
    assert back.health is Health.DOWN
    assert back.needs_proof
    assert back.speed == Speed(5.0, 7)


def test_speed_is_what_the_long_prompt_took_beyond_the_short_one() -> None:
    speed = measured_speed(Speed(), 1_000, 0.6, 0.1, 4_096)
    assert speed.prefill_tokens_per_s == pytest.approx(2_000)
    assert speed.kv_tokens == 4_096


def test_a_long_prompt_no_slower_than_a_short_one_is_fast_but_finite() -> None:
    assert measured_speed(Speed(), 1_000, 0.1, 0.1, None).prefill_tokens_per_s == pytest.approx(1e5)


def test_what_was_not_measured_stays_as_presumed() -> None:
    assert measured_speed(Speed(9.0, 9), 0, 0.0, 0.0, None) == Speed(9.0, 9)


def busy(steps: int, running: int = 1) -> EngineReport:
    return EngineReport(running=running, waiting=0, kv_used_ratio=0.1, steps=steps)


def test_an_engine_that_runs_requests_without_a_step_is_stuck_after_a_while() -> None:
    signs = reported(SERVING, busy(1), 0.0)
    for at_s in (5.0, 9.0):
        signs = reported(signs, busy(1), at_s)
        assert not stuck(signs, at_s, 10.0)
    assert stuck(reported(signs, busy(1), 10.0), 10.0, 10.0)
    assert saw(signs, Sight.STUCK, 3).health is Health.DOWN


def test_an_engine_that_steps_or_has_nothing_to_do_is_not_stuck() -> None:
    stepping = reported(reported(SERVING, busy(1), 0.0), busy(2), 20.0)
    assert not stuck(stepping, 20.0, 10.0)
    idle = reported(reported(SERVING, busy(1, 0), 0.0), busy(1, 0), 20.0)
    assert not stuck(idle, 20.0, 10.0)


def test_an_engine_never_heard_of_is_not_stuck() -> None:
    assert not stuck(SERVING, 1e9, 10.0)


def test_a_report_without_load_keeps_the_last_one() -> None:
    signs = reported(SERVING, busy(1), 3.0)
    assert reported(signs, EngineReport(steps=2), 4.0).load == signs.load
