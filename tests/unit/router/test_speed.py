from __future__ import annotations

from random import Random

import pytest

from router.speed import BOUND, EVEN_TOKENS, FIXED_MS, PrefillSpeed, token_pairs

RATE = 10_000.0  # presumed: 0.1 ms per token
PAIR_MS = 0.1 / EVEN_TOKENS


def observe(
    speed: PrefillSpeed, tokens: float, pairs: float, elapsed_ms: float, beside: float = 0.0
) -> None:
    speed.observe(tokens, pairs, beside, elapsed_ms)


def test_pairs_are_the_triangle_of_the_uncached_and_the_rectangle_over_the_cached() -> None:
    assert token_pairs(100.0, 0.0) == 5_000.0
    assert token_pairs(100.0, 1_000.0) == 105_000.0
    assert token_pairs(0.0, 1_000.0) == 0.0


def test_before_anything_is_observed_the_presumed_speed_holds() -> None:
    speed = PrefillSpeed(RATE)
    assert speed.ms(0.0, 0.0) == FIXED_MS
    assert speed.ms(1_000.0, 0.0) == pytest.approx(FIXED_MS + 100.0)
    assert speed.ms(0.0, EVEN_TOKENS) == pytest.approx(FIXED_MS + 0.1)


def test_what_agrees_with_the_presumption_changes_nothing() -> None:
    speed = PrefillSpeed(RATE)
    for tokens in (50.0, 700.0, 3_000.0, 40_000.0) * 10:
        pairs = token_pairs(tokens, 0.0)
        observe(speed, tokens, pairs, FIXED_MS + 0.1 * tokens + PAIR_MS * pairs)
    assert speed.fixed_ms == pytest.approx(FIXED_MS, rel=1e-3)
    assert speed.per_token_ms == pytest.approx(0.1, rel=1e-3)
    assert speed.per_pair_ms == pytest.approx(PAIR_MS, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("slower", "pair_slower"),
    [(1.0, 1.0), (0.5, 2.0), (3.0, 1.0), (2.0, 6.0), (3.0, 3.0), (0.3, 0.3)],
)
def test_known_coefficients_are_recovered_from_noisy_times_of_prompts_of_many_lengths(
    seed: int, slower: float, pair_slower: float
) -> None:
    rng = Random(seed)
    per_token, per_pair = 0.1 * slower, PAIR_MS * pair_slower
    speed = PrefillSpeed(RATE)
    for _ in range(1_000):
        cached = rng.choice((0.0, rng.uniform(0.0, 30_000.0)))
        tokens = rng.uniform(100.0, 60_000.0)
        pairs = token_pairs(tokens, cached)
        ms = FIXED_MS + per_token * tokens + per_pair * pairs
        observe(speed, tokens, pairs, ms * rng.uniform(0.97, 1.03))
    assert speed.per_token_ms == pytest.approx(per_token, rel=0.1)
    assert speed.per_pair_ms == pytest.approx(per_pair, rel=0.1)


@pytest.mark.parametrize("slower", [1 / 6, 0.5, 2.0, 6.0])
def test_times_of_one_length_teach_the_time_of_that_length(slower: float) -> None:
    speed = PrefillSpeed(RATE)
    pairs = token_pairs(4_000.0, 0.0)
    ms = slower * (FIXED_MS + 400.0 + PAIR_MS * pairs)
    for _ in range(2_000):
        observe(speed, 4_000.0, pairs, ms)
    assert speed.ms(4_000.0, pairs) == pytest.approx(ms, rel=0.1)
    assert 0.1 / BOUND <= speed.per_token_ms <= 0.1 * BOUND
    assert PAIR_MS / BOUND <= speed.per_pair_ms <= PAIR_MS * BOUND


def test_an_engine_that_becomes_slower_is_known_after_fifty_prompts() -> None:
    rng = Random(1)
    speed = PrefillSpeed(RATE)
    for factor in (1.0, 2.5):
        for _ in range(150):
            tokens = rng.uniform(200.0, 8_000.0)
            pairs = token_pairs(tokens, 0.0)
            observe(speed, tokens, pairs, factor * (15.0 + 0.1 * tokens + PAIR_MS * pairs))
    assert speed.ms(4_000.0, 8e6) == pytest.approx(2.5 * (415.0 + PAIR_MS * 8e6), rel=0.1)


@pytest.mark.parametrize("elapsed_ms", [0.0, 1e3, 60_000.0, 1e7])
def test_whatever_is_observed_costs_stay_finite_positive_and_within_bounds(
    elapsed_ms: float,
) -> None:
    speed = PrefillSpeed(RATE)
    for _ in range(200):
        observe(speed, 1_000.0, token_pairs(1_000.0, 0.0), elapsed_ms)
    assert 0.1 / BOUND <= speed.per_token_ms <= 0.1 * BOUND
    assert PAIR_MS / BOUND <= speed.per_pair_ms <= PAIR_MS * BOUND
    assert speed.fixed_ms >= 0.0
    assert speed.ms(30_000.0, token_pairs(30_000.0, 0.0)) < float("inf")


def test_a_stall_is_not_taken_for_slowness_and_is_soon_forgotten() -> None:
    speed = PrefillSpeed(RATE)
    pairs = token_pairs(1_000.0, 0.0)
    usual_ms = FIXED_MS + 100.0 + PAIR_MS * pairs
    observe(speed, 1_000.0, pairs, 60_000.0)
    assert speed.ms(1_000.0, pairs) <= 3.0 * usual_ms
    for _ in range(100):
        observe(speed, 1_000.0, pairs, usual_ms)
    assert speed.ms(1_000.0, pairs) == pytest.approx(usual_ms, rel=0.05)


def test_an_engine_that_is_slower_as_a_whole_is_known_beyond_the_lengths_it_has_shown() -> None:
    rng = Random(2)
    speed = PrefillSpeed(RATE)
    for _ in range(300):
        tokens = rng.uniform(200.0, 6_000.0)
        pairs = token_pairs(tokens, 0.0)
        observe(speed, tokens, pairs, 3.0 * (FIXED_MS + 0.1 * tokens + PAIR_MS * pairs))
    long, long_pairs = 32_000.0, token_pairs(32_000.0, 0.0)
    want = 3.0 * (FIXED_MS + 0.1 * long + PAIR_MS * long_pairs)
    assert speed.ms(long, long_pairs) == pytest.approx(want, rel=0.1)


def test_prompts_found_whole_in_the_cache_teach_too() -> None:
    speed = PrefillSpeed(RATE)
    for _ in range(300):
        observe(speed, 1.0, token_pairs(1.0, 5_000.0), 40.0)
    assert speed.ms(1.0, 5_000.0) == pytest.approx(40.0, rel=0.1)


def test_a_longer_prompt_never_costs_less() -> None:
    rng = Random(9)
    speed = PrefillSpeed(RATE)
    for _ in range(100):  # chance only
        observe(speed, rng.uniform(1.0, 50_000.0), rng.uniform(1.0, 1e9), rng.uniform(0.0, 1e4))
        costs = [speed.ms(t, token_pairs(t, 0.0)) for t in (1.0, 100.0, 1e3, 1e4, 1e5)]
        assert costs == sorted(costs)


@pytest.mark.parametrize("seed", range(3))
def test_what_decodes_beside_a_prompt_is_learned_as_a_cost_of_its_own(seed: int) -> None:
    rng = Random(seed)
    speed = PrefillSpeed(RATE)
    per_beside_ms = 200.0 / 300_000
    for _ in range(1_000):
        tokens, beside = rng.uniform(500.0, 20_000.0), rng.uniform(0.0, 300_000.0)
        pairs = token_pairs(tokens, 0.0)
        ms = FIXED_MS + 0.1 * tokens + PAIR_MS * pairs + per_beside_ms * beside
        observe(speed, tokens, pairs, ms * rng.uniform(0.97, 1.03), beside)
    assert 0.25 * per_beside_ms <= speed.per_beside_ms <= 1.1 * per_beside_ms  # with caution
    assert speed.per_token_ms == pytest.approx(0.1, rel=0.1)
    assert speed.per_pair_ms == pytest.approx(PAIR_MS, rel=0.5)


def test_what_decodes_beside_a_prompt_never_makes_it_faster() -> None:
    rng = Random(4)
    speed = PrefillSpeed(RATE)
    assert speed.per_beside_ms == 0.0
    for _ in range(200):
        tokens, beside = rng.uniform(500.0, 20_000.0), rng.uniform(0.0, 300_000.0)
        ms = 15.0 + 0.1 * tokens - beside / 1_000
        observe(speed, tokens, token_pairs(tokens, 0.0), max(1.0, ms), beside)
        assert speed.per_beside_ms >= 0.0


def test_prompts_of_one_step_are_one_observation() -> None:
    """Whether engines compute prompts one by one or eight at a time, a token costs the same."""
    speed, rng, now_s = PrefillSpeed(10_000.0), Random(2), 0.0
    for _ in range(300):
        prompts = [rng.uniform(50.0, 400.0) for _ in range(8)]
        took_ms = 30.0 + 0.05 * sum(prompts)
        now_s += took_ms / 1_000.0
        for n, tokens in enumerate(prompts):
            speed.first_token(
                tokens, token_pairs(tokens, 0.0), 0.0, 0.0 if n else took_ms, now_s + n * 1e-4
            )
    assert speed.per_token_ms == pytest.approx(0.05, rel=0.3)  # the prior still weighs a little
    assert speed.ms(1_800.0, 0.0) == pytest.approx(120.0, rel=0.1)


def test_a_step_is_learned_from_when_the_next_one_shows() -> None:
    speed = PrefillSpeed(10_000.0)
    before = speed.per_token_ms
    speed.first_token(1_000.0, token_pairs(1_000.0, 0.0), 0.0, 400.0, 1.0)
    assert speed.per_token_ms == before
    speed.first_token(1_000.0, token_pairs(1_000.0, 0.0), 0.0, 400.0, 1.4)
    assert speed.per_token_ms > before
