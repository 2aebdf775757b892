from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.core.adapter import AdapterSpec
from headrace.core.endpoint import EndpointView, Health, ModelFiles, Speed
from headrace.core.errors import ModelNotFound
from headrace.core.ids import EndpointId, ModelName
from router.adapters import GRACE_S, PRESUMED_REPLY_MS, STALL_WEIGHT, AdapterBook
from tests.support.routing import SPEED, A, B, M, request, router, view

X, Y, Z = ModelName("x"), ModelName("y"), ModelName("z")
LOAD_MS, SWAP_MS = 500.0, 40.0
TIMED: Speed = replace(SPEED, adapter_load_ms=LOAD_MS, adapter_swap_ms=SWAP_MS)


def spec(name: ModelName, rank: int | None = None) -> AdapterSpec:
    return AdapterSpec(name, M, f"file:///{name}", rank=rank)


def slotted(endpoint: EndpointId, *names: str, slots: int | None = 2) -> EndpointView:
    return replace(view(endpoint, M, *names), speed=TIMED, adapter_slots=slots)


def book(*views: EndpointView, specs: tuple[AdapterSpec, ...] = ()) -> AdapterBook:
    made = AdapterBook()
    made.set_specs(specs or (spec(X), spec(Y), spec(Z)))
    made.set_endpoints(views or (slotted(A, X, Y, Z),), 0.0)
    return made


def serve(made: AdapterBook, endpoint: EndpointId, name: ModelName, at_s: float) -> None:
    """Send a request and have it end a second later."""
    made.dispatched(endpoint, name, at_s)
    made.released(endpoint, name, at_s, at_s + 1.0)


def test_a_base_model_costs_nothing_and_always_fits() -> None:
    made = book()
    assert made.cost(A, M, 0.0).load_ms == 0.0
    assert made.fits(A, M)
    assert made.dispatched(A, M, 0.0) == 0.0


def test_one_that_the_endpoint_does_not_know_is_loaded_and_given_a_slot() -> None:
    made = book(slotted(A))
    assert made.cost(A, X, 0.0).load_ms == LOAD_MS + SWAP_MS


def test_one_that_it_knows_only_needs_a_slot_and_then_nothing() -> None:
    made = book()
    assert made.cost(A, X, 0.0).load_ms == SWAP_MS
    assert made.cost(A, X, 0.0).others_ms == STALL_WEIGHT * SWAP_MS
    made.dispatched(A, X, 0.0)
    assert made.cost(A, X, 0.0).load_ms == 0.0
    assert made.cost(A, X, 0.0).others_ms == 0.0


def test_a_load_under_way_costs_what_is_left_of_it() -> None:
    made = book(slotted(A))
    assert made.dispatched(A, X, 10.0) == LOAD_MS + SWAP_MS
    assert made.cost(A, X, 10.2).load_ms == pytest.approx(LOAD_MS - 200.0)
    made.loaded(A, X, 10.4, took_ms=400.0)
    assert made.cost(A, X, 10.4).load_ms == 0.0


def test_what_loads_take_is_learned_per_endpoint() -> None:
    made = book(slotted(A), slotted(B))
    for at_s in range(60):
        made.loaded(A, X, float(at_s), took_ms=100.0)
        made.unloaded(A, X)
    assert made.cost(A, Y, 60.0).load_ms == pytest.approx(100.0 + SWAP_MS, rel=0.01)
    assert made.cost(B, Y, 60.0).load_ms == LOAD_MS + SWAP_MS


def test_a_failed_load_leaves_the_endpoint_without_it() -> None:
    made = book(slotted(A))
    made.dispatched(A, X, 0.0)
    made.unloaded(A, X)
    assert not made.has(A, X)
    assert made.cost(A, X, 0.0).load_ms == LOAD_MS + SWAP_MS


def test_the_slot_used_least_recently_is_taken_next() -> None:
    made = book()
    for at_s, name in enumerate((X, Y, X)):
        serve(made, A, name, float(at_s))
    serve(made, A, Z, 5.0)
    assert made.cost(A, X, 6.0).load_ms == 0.0
    assert made.cost(A, Y, 6.0).load_ms == SWAP_MS


def test_no_slot_is_taken_from_an_adapter_with_a_request_in_flight() -> None:
    made = book()
    made.dispatched(A, X, 0.0)
    serve(made, A, Y, 1.0)
    serve(made, A, Z, 3.0)
    assert made.cost(A, X, 5.0).load_ms == 0.0
    assert made.cost(A, Y, 5.0).load_ms == SWAP_MS


def test_where_every_slot_is_busy_a_request_does_not_fit_and_waits_for_a_reply_to_end() -> None:
    made = book()
    made.dispatched(A, X, 0.0)
    made.dispatched(A, Y, 0.0)
    assert made.fits(A, X)
    assert not made.fits(A, Z)
    alone = made.cost(A, Z, 0.0).load_ms
    assert alone == pytest.approx(SWAP_MS + PRESUMED_REPLY_MS / 2, rel=0.1)
    for _ in range(4):
        made.dispatched(A, X, 0.0)
        made.dispatched(A, Y, 0.0)
    assert made.cost(A, Z, 0.0).load_ms > 1.5 * alone
    for _ in range(5):
        made.released(A, X, 0.0, 1.0)
    assert made.fits(A, Z)


def test_slots_are_not_reckoned_with_where_nobody_knows_how_many() -> None:
    made = book(slotted(A, X, Y, Z, slots=None))
    for name in (X, Y, Z):
        made.dispatched(A, name, 0.0)
        assert made.cost(A, name, 0.0).load_ms == 0.0
        assert made.fits(A, name)


def test_evicting_what_is_asked_for_often_costs_more() -> None:
    views = (slotted(A, X, Y, Z, slots=1), slotted(B, X, Y, Z, slots=1))
    made = book(*views)
    for at_s in range(20):
        serve(made, A, X, float(at_s))
    serve(made, B, Y, 19.0)
    assert made.cost(A, Z, 30.0).others_ms > made.cost(B, Z, 30.0).others_ms > 0.0


def test_evicting_one_of_two_copies_costs_less_than_the_only_one() -> None:
    views = (slotted(A, X, Y, Z, slots=1), slotted(B, X, Y, Z, slots=1))
    alone, twice = book(*views), book(*views)
    for at_s in range(10):
        serve(alone, A, X, at_s * 1.0)
        serve(twice, A if at_s % 2 else B, X, at_s * 1.0)
    assert twice.cost(A, Z, 20.0).others_ms < alone.cost(A, Z, 20.0).others_ms


def test_a_narrow_adapter_prefers_narrow_slots_and_a_wide_one_fits_only_wide() -> None:
    narrow = replace(slotted(A, X, Y), adapter_rank=16)
    wide = replace(slotted(B, X, Y), adapter_rank=64)
    made = router(narrow, wide)
    made.set_adapters([spec(X, rank=16), spec(Y, rank=64)])
    assert made.adapters.cost(A, X, 0.0).others_ms < made.adapters.cost(B, X, 0.0).others_ms
    assert [one.endpoint_id for one in made.serving(Y)] == [B]


def test_an_engine_that_comes_back_from_the_dead_has_empty_slots() -> None:
    made = book()
    serve(made, A, X, 0.0)
    made.set_endpoints([replace(slotted(A, X, Y, Z), health=Health.DOWN)], 2.0)
    made.set_endpoints([slotted(A)], 3.0)
    assert made.cost(A, X, 3.0).load_ms == LOAD_MS + SWAP_MS


def test_a_list_read_before_the_load_does_not_undo_it_but_a_later_one_does() -> None:
    made = book(slotted(A))
    made.loaded(A, X, 1.0)
    made.set_endpoints([slotted(A)], 2.0)
    assert made.has(A, X)
    made.set_endpoints([slotted(A)], 2.0 + GRACE_S)
    assert not made.has(A, X)


def test_an_adapter_that_only_the_engine_knows_of_counts_too() -> None:
    files = (ModelFiles("/m"), ModelFiles("/own", M))
    made = book(replace(slotted(A, "own", slots=1), files=files), specs=(spec(X),))
    assert made.is_adapter(ModelName("own"))
    assert made.cost(A, ModelName("own"), 0.0).load_ms == SWAP_MS


def test_every_endpoint_of_the_base_model_serves_a_listed_adapter_but_one_without_slots() -> None:
    made = router(slotted(A), slotted(B, slots=0))
    with pytest.raises(ModelNotFound):
        made.choose(request("r", model=X), 0.0)
    made.set_adapters([spec(X), replace(spec(Y), base=ModelName("other"))])
    assert made.models() == [M, X]
    assert made.choose(request("r", model=X), 0.0).endpoint_id == A
    made.set_adapters([])
    assert made.models() == [M]


def test_requests_for_one_adapter_gather_and_spread_once_the_queue_costs_more_than_a_load() -> None:
    made = router(slotted(A, X), slotted(B, X))
    made.set_adapters([spec(X)])
    went = []
    for number in range(20):
        asked = request(f"r{number}", tokens=256, head=number, model=X)
        decision = made.place(asked, float(number > 0))
        went.append(None if decision is None else decision.endpoint_id)
        if number == 0:
            made.first_token(asked.request_id, 0.1)
    assert went[0] == went[1]
    assert {A, B} <= set(went)


def test_a_request_without_a_slot_is_held_until_one_is_free_and_others_go_on() -> None:
    made = router(slotted(A, X, Y, slots=1))
    made.set_adapters([spec(X), spec(Y)])
    assert made.place(request("x", model=X), 0.0) is not None
    made.first_token(request("x").request_id, 0.2)
    assert made.place(request("y", model=Y), 0.3) is None
    assert made.placed(0.4) == []
    assert made.place(request("m"), 0.5) is not None
    made.released(request("x").request_id, 1.0)
    ((placed, decision),) = made.placed(1.0)
    assert placed.model == Y
    assert decision is not None
    for name in ("y", "m"):
        made.released(request(name).request_id, 2.0)
    made.check()


def test_a_load_teaches_nothing_about_prompts_and_delays_what_is_behind_it() -> None:
    made = router(slotted(A))
    made.set_adapters([spec(X)])
    before = made.choose(request("probe"), 0.0).candidate
    made.place(request("x", model=X), 0.0)
    behind = made.choose(request("behind"), 0.0).candidate
    assert behind.queued_ms >= LOAD_MS
    made.first_token(request("x").request_id, 5.0)
    made.released(request("x").request_id, 5.1)
    after = made.choose(request("probe"), 6.0).candidate
    assert (after.fixed_ms, after.per_token_ms) == (before.fixed_ms, before.per_token_ms)
