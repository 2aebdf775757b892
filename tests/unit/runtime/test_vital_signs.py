from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.endpoint import Health, Speed
from headrace.core.ids import ModelName
from headrace.runtime.vital_signs import Sight, VitalSigns, measured_speed, saw

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
