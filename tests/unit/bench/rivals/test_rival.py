from __future__ import annotations

import pytest

from bench.rivals.flights import Flights
from bench.rivals.rival import Choice, Known
from headrace.core.ids import ModelName, RequestId
from headrace.core.request import RouteRequest
from tests.unit.bench.rivals.stage import Stage


def asked(name: str) -> RouteRequest:
    return RouteRequest(RequestId(name), ModelName("m"), 64)


class Fixed:
    """Always the first; shows what it was told."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.cached: list[list[int]] = []

    def choose(self, request: RouteRequest, now_s: float) -> Choice:
        self.cached.append(self.known.cached_tokens(request))
        return Choice(0, 100)


def stage(*, detailed: bool = False, oracle: bool = False) -> tuple[Stage, list[Fixed]]:
    made: list[Fixed] = []

    def make(known: Known) -> Fixed:
        made.append(Fixed(known))
        return made[0]

    return Stage(make, detailed=detailed, oracle=oracle), made


def test_what_is_booked_is_given_back_at_the_first_token_and_the_rest_at_the_end() -> None:
    staged, (rule,) = stage()
    one, _ = staged.place(1, 2)
    two, _ = staged.place(1, 3)
    flights = rule.known.flights
    assert (flights.requests, flights.booked_tokens) == ([2, 0], [200, 0])
    assert flights.blocks == [12, 0]  # 4 of the first block are common
    staged.first_token(one)
    assert (flights.requests, flights.booked_tokens) == ([2, 0], [100, 0])
    staged.end(one)
    assert (flights.requests, flights.blocks) == ([1, 0], [8, 0])
    with pytest.raises(AssertionError, match="in flight"):
        staged.rival.check()
    staged.end(two)  # an end without a first token gives all back too
    staged.rival.check()
    assert flights.ever_booked_tokens == [200, 0]


def test_depths_of_flights_can_be_limited_to_the_latest() -> None:
    flights = Flights(2)
    flights.sent(asked("a"), 0, 0, (1, 2, 3), 1.0)
    flights.sent(asked("b"), 0, 0, (1, 2, 9), 2.0)
    assert flights.depths((1, 2, 3, 4)) == [3, 0]
    assert flights.depths((1, 2, 3, 4), since_s=1.5) == [2, 0]
    assert flights.depths((1, 2, 3, 4), since_s=2.5) == [0, 0]


def test_an_engine_computes_at_least_one_token() -> None:
    staged, (rule,) = stage()
    staged.holds(1, 1, 2)
    staged.send(1, 2)
    staged.send(1, 2, tokens=129)
    assert rule.cached == [[0, 112], [0, 128]]


def test_only_an_oracle_counts_prompts_on_their_way_as_held() -> None:
    for oracle, held in ((False, 0), (True, 48)):
        staged, (rule,) = stage(oracle=oracle)
        staged.send(1)
        staged.send(1)
        assert rule.cached[-1] == [held, 0]


def test_only_an_oracle_knows_the_engines() -> None:
    staged, (rule,) = stage(oracle=True)
    staged.reports(1, running=3, waiting=2, kv=0.25, pending=700)
    assert rule.known.counts() == [0, 5]
    assert rule.known.pending_tokens() == [0, 700]
    assert rule.known.loads(0.0)[1].kv_used_ratio == 0.25
    staged, (rule,) = stage()
    with pytest.raises(AssertionError):
        rule.known.engines()


def test_an_engine_tells_its_pending_tokens_only_to_rivals_whose_engines_do() -> None:
    for detailed, pending in ((False, 0), (True, 700)):
        staged, (rule,) = stage(detailed=detailed)
        staged.reports(1, pending=700)
        report = rule.known.reports[1]
        assert report is not None
        assert report.pending_tokens == pending
        assert rule.known.reports[0] is None
