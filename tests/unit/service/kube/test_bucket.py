from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.service.kube.bucket import TokenBucket

FOREVER = float("inf")


def test_a_burst_passes_and_the_rest_takes_turns() -> None:
    bucket = TokenBucket(10.0, 3)
    waits = [bucket.take(0.0, FOREVER) for _ in range(5)]
    assert waits == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])
    assert bucket.take(100.0, FOREVER) == 0.0


def test_who_would_wait_too_long_takes_nothing() -> None:
    bucket = TokenBucket(10.0, 1)
    assert bucket.take(0.0, 0.0) == 0.0
    assert bucket.take(0.0, 0.05) is None
    assert bucket.take(0.0, 0.1) == pytest.approx(0.1)


@pytest.mark.parametrize(("per_s", "burst"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_a_bucket_that_lets_nothing_pass_is_refused(per_s: float, burst: int) -> None:
    with pytest.raises(ValueError, match="needed"):
        TokenBucket(per_s, burst)


@given(
    st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60),
    st.floats(0.5, 50.0),
    st.integers(1, 10),
)
def test_no_second_sees_more_than_rate_and_burst(
    gaps: list[float], per_s: float, burst: int
) -> None:
    bucket, now_s, used = TokenBucket(per_s, burst), 0.0, []
    for gap in gaps:
        now_s += gap
        wait_s = bucket.take(now_s, FOREVER)
        assert wait_s is not None
        used.append(now_s + wait_s)
    assert used == sorted(used)  # in the order of asking
    for number, start_s in enumerate(used):
        within = sum(start_s <= at_s <= start_s + 1.0 for at_s in used[number:])
        assert within <= burst + per_s + 1 + 1e-6


def test_what_is_spare_is_taken_only_while_half_of_the_burst_is_there() -> None:
    bucket = TokenBucket(10.0, 4)
    assert [bucket.spare(0.0) for _ in range(3)] == pytest.approx([0.0, 0.0, 0.1])
    assert [bucket.take(0.0, FOREVER) for _ in range(3)] == pytest.approx([0.0, 0.0, 0.1])
    assert bucket.spare(0.0) == pytest.approx(0.4)
    assert bucket.spare(0.4) == 0.0


def test_where_the_burst_is_one_there_is_something_spare_too() -> None:
    bucket = TokenBucket(10.0, 1)
    assert bucket.spare(0.0) == 0.0
    assert bucket.spare(0.0) == pytest.approx(0.1)
    assert bucket.spare(0.1) == 0.0


@given(st.lists(st.booleans(), max_size=60), st.floats(0.5, 50.0), st.integers(1, 10))
def test_what_others_find_spare_takes_no_more_than_half_of_the_burst(
    asked: list[bool], per_s: float, burst: int
) -> None:
    bucket, alone = TokenBucket(per_s, burst), TokenBucket(per_s, burst)
    spared = 0
    for takes in asked:
        if takes:
            wait_s, best_s = bucket.take(0.0, FOREVER), alone.take(0.0, FOREVER)
            assert wait_s is not None
            assert best_s is not None
            assert wait_s <= best_s + spared / per_s + 1e-6
        else:
            spared += bucket.spare(0.0) == 0.0
    assert spared <= (burst + 1) // 2
