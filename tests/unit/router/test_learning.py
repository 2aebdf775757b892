"""A step's time is learned from what it computed, whenever and in whatever order one hears of it."""

from __future__ import annotations

from typing_extensions import override

from router.learning import Computed, Freed, Learning
from router.speed import STEP_S, PrefillSpeed


class Seen(PrefillSpeed):
    """Keeps what it is told: tokens, and the milliseconds that they took."""

    def __init__(self) -> None:
        super().__init__(10_000.0)
        self.told: list[tuple[float, float]] = []

    @override
    def first_token(
        self, tokens: float, pairs: float, beside: float, elapsed_ms: float, now_s: float
    ) -> None:
        self.told.append((tokens, round(elapsed_ms, 3)))


def prompt(tokens: float, sent_s: float) -> Computed:
    return Computed(tokens, 0.0, 0.0, sent_s)


def learning(late_s: float = 0.0) -> tuple[Learning, list[tuple[float, float]]]:
    speed = Seen()
    made = Learning(speed)
    made.late_s = late_s
    return made, speed.told


def test_a_prompt_took_from_when_it_was_sent_or_the_one_before_was_computed() -> None:
    made, told = learning()
    made.happened(prompt(100.0, sent_s=1.0), 1.5)
    made.happened(prompt(200.0, sent_s=1.0), 1.75)
    made.happened(prompt(300.0, sent_s=5.0), 5.25)
    assert told == [(100.0, 500.0), (200.0, 250.0), (300.0, 250.0)]


def test_what_is_heard_of_late_counts_where_it_happened() -> None:
    made, told = learning(late_s=0.1)
    made.happened(prompt(200.0, sent_s=1.0), 1.75)  # ours
    assert told == []
    made.happened(prompt(100.0, sent_s=1.0), 1.5)  # another's, before it
    made.happened(prompt(300.0, sent_s=5.0), 5.25)
    assert told == [(100.0, 500.0), (200.0, 250.0)]


def test_what_frees_the_endpoint_teaches_nothing_but_when_the_next_began() -> None:
    made, told = learning()
    made.happened(Freed(), 1.5)
    made.happened(prompt(200.0, sent_s=1.0), 1.75)
    made.happened(Freed(frees=False), 2.0)
    made.happened(prompt(300.0, sent_s=1.0), 2.25)
    assert told == [(200.0, 250.0), (300.0, 500.0)]


def test_after_a_request_that_left_the_next_step_teaches_nothing() -> None:
    made, told = learning()
    made.happened(Freed(frees=False, left=True), 1.0)
    made.happened(prompt(100.0, sent_s=0.5), 1.5)
    made.happened(prompt(100.0, sent_s=0.5), 1.5 + STEP_S / 2)  # of the same step
    made.happened(prompt(200.0, sent_s=0.5), 2.0)
    assert told == [(200.0, 498.5)]
