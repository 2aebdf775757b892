from __future__ import annotations

import pytest

from router.flow import MEMORY_S, SEEN_LEAST, Flow


def steady(flow: Flow, from_s: float, seconds: float, per_s: int, work_ms: float) -> float:
    """Send at an even rate; return when it ended."""
    for n in range(int(seconds * per_s)):
        flow.sent(work_ms, from_s + n / per_s)
    return from_s + seconds


def test_nothing_was_sent_at_first() -> None:
    assert Flow().rates(5.0) == (0.0, 0.0)


@pytest.mark.parametrize("seconds", [2.0, 10.0, 100.0])
def test_a_steady_flow_is_told_right_however_long_it_has_been_seen(seconds: float) -> None:
    flow = Flow()
    now_s = steady(flow, 50.0, seconds, per_s=20, work_ms=30.0)
    per_ms, busy = flow.rates(now_s)
    assert per_ms == pytest.approx(0.020, rel=0.03)
    assert busy == pytest.approx(0.6, rel=0.03)


def test_one_request_is_not_yet_a_rate() -> None:
    flow = Flow()
    flow.sent(500.0, 7.0)
    per_ms, busy = flow.rates(7.0)
    assert per_ms == pytest.approx(1.0 / (SEEN_LEAST * MEMORY_S * 1_000.0))
    assert busy == pytest.approx(500.0 * per_ms)


def test_what_was_sent_long_ago_is_forgotten() -> None:
    flow = Flow()
    now_s = steady(flow, 0.0, 60.0, per_s=20, work_ms=30.0)
    after, _ = flow.rates(now_s + MEMORY_S)
    assert after == pytest.approx(0.020 / 2.718, rel=0.03)
    assert flow.rates(now_s + 100.0 * MEMORY_S)[0] < 1e-9
