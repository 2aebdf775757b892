from __future__ import annotations

from headrace.core.ids import EndpointId, RequestId
from headrace.core.request import RouteRequest
from router.held import LOOKED_AT, Held, HeldRequests, HoldLimits, Opening
from router.prefixes import Cached
from tests.support.routing import A, B, request


def opening(endpoint: EndpointId = A, room_tokens: float = 1e9) -> Opening:
    return Opening(endpoint, room_tokens, fixed_ms=15.0, per_token_ms=0.1)


def anyone(_endpoint: EndpointId, _request: RouteRequest) -> bool:
    return True


def holding(*held: Held, limits: HoldLimits | None = None) -> HeldRequests:
    made = HeldRequests(limits or HoldLimits())
    for one in held:
        made.add(one)
    return made


def held(
    name: str,
    tokens: int = 1_000,
    since_s: float = 0.0,
    *,
    priority: int = 0,
    exclude: frozenset[EndpointId] = frozenset(),
    cached: dict[EndpointId, Cached] | None = None,
) -> Held:
    asked = request(name, tokens, priority=priority)
    return Held(asked, exclude, since_s, tokens + 256.0, cached or {})


def order(requests: HeldRequests, now_s: float, *openings: Opening) -> list[str]:
    """Send all on, one after the other at one moment."""
    names: list[str] = []
    while ranked := requests.ranked(openings or (opening(),), anyone, now_s):
        names.append(ranked[0].request.request_id)
        requests.remove(ranked[0].request.request_id)
    return names


def test_of_requests_that_came_together_the_shorter_goes_first() -> None:
    requests = holding(held("long", 20_000), held("short", 100), held("middle", 3_000))
    assert order(requests, 0.0) == ["short", "middle", "long"]


def test_a_long_request_gains_by_waiting_and_passes_a_short_one_that_came_late() -> None:
    both = (held("long", 20_000, since_s=0.0), held("short", 200, since_s=10.0))
    assert order(holding(*both), 10.0) == ["long", "short"]  # 10.05 / 2.035 against 0.05 / 0.055
    assert order(holding(*both), 10.3) == ["short", "long"]  # 0.35 / 0.055 against 10.35 / 2.035


def test_what_an_endpoint_holds_of_a_prompt_does_not_count_as_its_work() -> None:
    warm = held("warm", 20_000, cached={B: Cached(19_900.0, 19_900.0)})
    cold = held("cold", 2_000)
    assert order(holding(warm, cold), 0.0, opening(A)) == ["cold", "warm"]
    assert order(holding(warm, cold), 0.0, opening(B)) == ["warm", "cold"]


def test_a_higher_priority_goes_first_however_long_others_wait() -> None:
    requests = holding(held("old", 10), held("urgent", 50_000, since_s=99.0, priority=1))
    assert order(requests, 100.0) == ["urgent", "old"]


def test_negative_priorities_are_served_too() -> None:
    assert order(holding(held("idle", priority=-5)), 0.0) == ["idle"]


def test_equal_requests_go_in_the_order_in_which_they_came() -> None:
    requests = holding(*(held(f"r{n}", since_s=n / 100) for n in range(5)))
    assert order(requests, 1.0) == ["r0", "r1", "r2", "r3", "r4"]
    same = holding(*(held(f"r{n}") for n in range(5)))
    assert order(same, 1.0) == ["r0", "r1", "r2", "r3", "r4"]


def test_one_that_does_not_fit_is_passed_over_for_one_that_does() -> None:
    requests = holding(held("big", 5_000), held("small", 100, since_s=5.0))
    assert order(requests, 9.0, opening(room_tokens=1_000.0)) == ["small"]
    assert len(requests) == 1


def test_one_that_fits_exactly_is_sent() -> None:
    assert order(holding(held("r", 744)), 0.0, opening(room_tokens=1_000.0)) == ["r"]


def test_endpoints_that_a_request_excludes_are_no_openings_for_it() -> None:
    requests = holding(held("r", exclude=frozenset({A})))
    assert not requests.ranked([opening(A)], anyone, 1.0)
    assert requests.ranked([opening(A), opening(B)], anyone, 1.0)


def test_endpoints_that_do_not_admit_a_request_are_no_openings_for_it() -> None:
    requests = holding(held("r1"), held("r2"))

    def second_only(_endpoint: EndpointId, asked: RouteRequest) -> bool:
        return asked.request_id == "r2"

    (found,) = requests.ranked([opening()], second_only, 1.0)
    assert found.request.request_id == "r2"


def test_without_an_opening_nothing_is_sent() -> None:
    assert not holding(held("r")).ranked([], anyone, 1e6)


def test_only_a_few_are_looked_at_however_many_wait() -> None:
    requests = holding(*(held(f"r{n}", 1_000 + n) for n in range(3 * LOOKED_AT)))
    names = [one.request.request_id for one in requests.ranked([opening()], anyone, 1.0)]
    assert names == [f"r{n}" for n in range(LOOKED_AT)]


def test_the_oldest_is_overdue_when_it_has_been_held_as_long_as_it_may() -> None:
    requests = holding(
        held("r1", since_s=1.0), held("r2", since_s=2.0), limits=HoldLimits(longest_s=10.0)
    )
    assert requests.overdue(10.9) is None
    found = requests.overdue(11.0)
    assert found is not None
    assert found.request.request_id == "r1"
    requests.remove(RequestId("r1"))
    assert requests.overdue(11.9) is None
    requests.remove(RequestId("r2"))
    assert requests.overdue(1e9) is None


def test_there_is_room_for_as_many_as_the_limit_says() -> None:
    assert not holding(limits=HoldLimits(requests=0)).has_room()
    requests = holding(held("r1"), limits=HoldLimits(requests=2))
    assert requests.has_room()
    requests.add(held("r2"))
    assert not requests.has_room()
    assert len(requests) == 2


def test_a_request_is_let_go_once() -> None:
    requests = holding(held("r"))
    assert requests.remove(RequestId("r")) is not None
    assert requests.remove(RequestId("r")) is None
