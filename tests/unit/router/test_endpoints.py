from __future__ import annotations

import pytest

from headrace.core.endpoint import EndpointView, Health, Role
from headrace.core.errors import ModelNotFound
from headrace.core.ids import EndpointId
from router.endpoints import Endpoints
from tests.support.routing import A, B, C, M, request, view


def having(*views: EndpointView) -> Endpoints:
    made = Endpoints()
    made.set(views)
    return made


def serving(endpoints: Endpoints, *exclude: EndpointId, **asked: object) -> list[EndpointId]:
    wanted = request("r", **asked)  # type: ignore[arg-type]
    found = endpoints.that_may_serve(wanted, frozenset(exclude))
    assert endpoints.may_serve(wanted, frozenset(exclude)) == bool(found)
    return [one.endpoint_id for one in found]


def test_endpoints_are_given_by_id_whatever_the_order_they_came_in() -> None:
    endpoints = having(view(C), view(A), view(B))
    assert serving(endpoints) == [A, B, C]
    assert [one.endpoint_id for one in endpoints.all()] == [A, B, C]
    assert [one.endpoint_id for one in endpoints.ready()] == [A, B, C]
    assert endpoints.ids() == {A, B, C}


def test_only_ready_endpoints_that_decode_are_given_requests() -> None:
    endpoints = having(
        view(A, health=Health.DRAINING), view(B, health=Health.DOWN), view(C, role=Role.PREFILL)
    )
    assert serving(endpoints) == []
    assert endpoints.ready() == []
    assert endpoints.models() == [M]
    assert serving(having(view(A, role=Role.DECODE))) == [A]


def test_excluded_endpoints_are_left_out() -> None:
    assert serving(having(view(A), view(B)), A) == [B]


def test_an_adapter_is_served_by_those_that_have_it_and_those_that_can_load_it() -> None:
    endpoints = having(view(A, "m", "lora"), view(B, "m", loadable=("lora",)), view(C, "m"))
    assert serving(endpoints, model="lora") == [A, B]
    assert serving(endpoints, model="m") == [A, B, C]
    assert endpoints.models() == ["lora", "m"]
    lora = request("r", model="lora").model
    assert [endpoints.loaded(e, lora) for e in (A, B, C)] == [True, False, False]
    assert [endpoints.admits(e, request("r", model="lora")) for e in (A, B, C)] == [
        True,
        True,
        False,
    ]


def test_a_name_that_is_both_loaded_and_loadable_counts_once() -> None:
    endpoints = having(view(A, "m", "lora", loadable=("lora",)))
    assert serving(endpoints, model="lora") == [A]


def test_all_labels_asked_for_must_be_there() -> None:
    eu, gold = ("zone", "eu"), ("tier", "gold")
    endpoints = having(view(A, labels=(eu, gold)), view(B, labels=(eu,)), view(C))
    assert serving(endpoints, labels=(eu,)) == [A, B]
    assert serving(endpoints, labels=(gold, eu)) == [A]
    assert serving(endpoints, labels=(("zone", "us"),)) == []
    assert serving(endpoints) == [A, B, C]
    for endpoint, admitted in ((A, True), (B, False), (C, False)):
        assert endpoints.admits(endpoint, request("r", labels=(eu, gold))) is admitted


def test_a_new_list_is_seen_by_whoever_asked_before() -> None:
    endpoints = having(view(A), view(B))
    assert serving(endpoints) == serving(endpoints) == [A, B]
    assert serving(endpoints, A) == [B]
    endpoints.set([view(A, health=Health.DOWN), view(B), view(C)])
    assert serving(endpoints) == [B, C]


def test_those_that_lost_what_they_held_are_named_while_they_are_down_and_when_they_vanish() -> (
    None
):
    endpoints = having(view(A), view(B), view(C))
    assert endpoints.set([view(A), view(B, health=Health.DOWN)]) == [B, C]
    assert endpoints.set([view(A, health=Health.DRAINING), view(B)]) == []
    assert sorted(endpoints.set([])) == [A, B]
    assert endpoints.set([view(A)]) == []


def test_an_unknown_model_names_the_known_ones_and_an_empty_fleet_says_so() -> None:
    with pytest.raises(ModelNotFound, match="models served: l, m"):
        serving(having(view(A, "m"), view(B, loadable=("l",))), model="x")
    with pytest.raises(ModelNotFound, match="models served: none yet"):
        Endpoints().that_may_serve(request("r"), frozenset())
    assert not Endpoints().may_serve(request("r"), frozenset())
