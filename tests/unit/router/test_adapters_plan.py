from __future__ import annotations

from dataclasses import replace

from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import EndpointView, Health
from headrace.core.ids import EndpointId, ModelName
from router.adapters import AdapterBook
from router.adapters_plan import AdapterLimits, Step, plan, victim
from tests.support.routing import A, B, C, M, view

X, Y, Z = ModelName("x"), ModelName("y"), ModelName("z")
LIMITS = AdapterLimits(per_endpoint=2)
Ours = frozenset[tuple[EndpointId, ModelName]]


def spec(name: ModelName, replicas: int | None = None, *, pinned: bool = False) -> AdapterSpec:
    return AdapterSpec(name, M, f"file:///{name}", replicas=replicas, pinned=pinned)


def setting(*views: EndpointView, specs: list[AdapterSpec]) -> tuple[AdapterBook, Ours]:
    """A book in which we have loaded whatever the endpoints say that they have."""
    made = AdapterBook()
    made.set_specs(specs)
    made.set_endpoints(views, 0.0)
    ours = frozenset((v.endpoint_id, name) for v in views for name in v.models[1:])
    for endpoint_id, name in sorted(ours):
        made.loaded(endpoint_id, name, 0.0)
    return made, ours


def test_nothing_is_done_where_all_is_as_it_should_be() -> None:
    views = (view(A, M, X), view(B, M))
    book, ours = setting(*views, specs=[spec(X, 1), spec(Y)])
    assert plan(book, views, ours, 1_000.0, LIMITS) == []


def test_missing_replicas_are_loaded_where_the_fewest_adapters_are() -> None:
    views = (view(A, M, Y), view(B, M), view(C, M, X))
    book, ours = setting(*views, specs=[spec(X, 2), spec(Y)])
    assert plan(book, views, ours, 0.0, LIMITS) == [Step(B, X, load=True)]


def test_replicas_are_not_loaded_where_there_is_no_room_or_nothing_ready() -> None:
    full, down = view(A, M, Y, Z), view(B, M, health=Health.DOWN)
    book, ours = setting(full, down, specs=[spec(X, 2), spec(Y), spec(Z)])
    assert plan(book, (full, down), ours, 0.0, LIMITS) == []


def test_what_is_no_longer_listed_goes_once_its_requests_have_ended() -> None:
    views = (view(A, M, X),)
    book, ours = setting(*views, specs=[spec(X)])
    book.dispatched(A, X, 0.0)
    book.set_specs([])
    assert plan(book, views, ours, 1.0, LIMITS) == []
    book.released(A, X, 0.0, 1.0)
    assert plan(book, views, ours, 1.0, LIMITS) == [Step(A, X, load=False)]


def test_what_others_loaded_is_left_alone() -> None:
    views = (view(A, M, X),)
    book, _ = setting(*views, specs=[])
    assert plan(book, views, frozenset(), 0.0, LIMITS) == []


def test_beyond_the_bound_the_one_asked_for_least_recently_goes() -> None:
    views = (view(A, M, X, Y, Z),)
    book, ours = setting(*views, specs=[spec(X), spec(Y), spec(Z)])
    for at_s, name in ((1.0, Y), (2.0, X), (3.0, Z)):
        book.dispatched(A, name, at_s)
        book.released(A, name, at_s, at_s)
    assert plan(book, views, ours, 4.0, LIMITS) == [Step(A, Y, load=False)]


def test_pins_and_requests_in_flight_keep_an_adapter_and_fixed_ones_go_last() -> None:
    views = (view(A, M, X, Y, Z),)
    book, ours = setting(*views, specs=[spec(X, pinned=True), spec(Y, 1), spec(Z)])
    assert victim(book, A, ours, 1.0) == Z
    book.dispatched(A, Z, 1.0)
    assert victim(book, A, ours, 2.0) == Y
    book.dispatched(A, Y, 2.0)
    assert victim(book, A, ours, 3.0) is None


def test_idle_ones_are_parked_only_where_that_is_asked_for() -> None:
    views = (view(A, M, X, Y),)
    book, ours = setting(*views, specs=[spec(X), spec(Y, 1)])
    assert plan(book, views, ours, 900.0, LIMITS) == []
    parking = replace(LIMITS, park_after_s=600.0)
    assert plan(book, views, ours, 500.0, parking) == []
    assert plan(book, views, ours, 900.0, parking) == [Step(A, X, load=False)]


def test_an_endpoint_with_a_bound_of_its_own_is_given_no_more() -> None:
    small = replace(view(A, M, X, Y), adapter_room=1)
    book, ours = setting(small, specs=[spec(X), spec(Y)])
    [step] = plan(book, (small,), ours, 0.0, LIMITS)
    assert (step.endpoint_id, step.load) == (A, False)
    views = (replace(view(A, M, Y), adapter_room=1), replace(view(B, M), adapter_room=1))
    book, ours = setting(*views, specs=[spec(X, 2), spec(Y)])
    assert plan(book, views, ours, 0.0, LIMITS) == [Step(B, X, load=True)]
