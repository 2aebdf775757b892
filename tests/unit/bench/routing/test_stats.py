from __future__ import annotations

import pytest

from bench.routing.stats import mean, ratio


def test_the_interval_of_a_mean_is_that_of_the_t_distribution() -> None:
    found = mean([1.0, 2.0, 3.0])
    half = 4.303 * 1.0 / 3**0.5
    assert found.value == 2.0
    assert (found.low, found.high) == pytest.approx((2.0 - half, 2.0 + half))


def test_one_seed_says_nothing_of_the_spread() -> None:
    found = mean([5.0])
    assert (found.value, found.low, found.high) == (5.0, 5.0, 5.0)


def test_ratios_are_paired_by_seed() -> None:
    found = ratio([1.0, 10.0, 100.0], [2.0, 20.0, 200.0])
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


def test_a_ratio_and_its_inverse_agree() -> None:
    ours, theirs = [1.0, 3.0, 2.0], [2.0, 2.0, 2.5]
    assert ratio(ours, theirs).value == pytest.approx(1.0 / ratio(theirs, ours).value)


def test_zeros_on_both_sides_are_equal_and_a_lone_zero_stays_finite() -> None:
    assert ratio([0.0], [0.0]).value == 1.0
    assert ratio([0.0], [1.0]).value < 1e-6
    assert 1e6 < ratio([1.0], [0.0]).value < float("inf")
