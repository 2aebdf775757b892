from __future__ import annotations

from dataclasses import replace

import pytest

from controller.fleets.ray.names import ReplicaName
from controller.fleets.ray.plan import (
    OVER,
    Create,
    Desired,
    Drain,
    Phase,
    Remove,
    Seen,
    plan,
)

NOW_S = 1_000.0


def name(index: int = 0, revision: str = "new", token: str = "a", fleet: str = "f") -> ReplicaName:
    return ReplicaName(fleet, index, revision, token)


def seen(one: ReplicaName, phase: Phase = Phase.READY, age_s: float = 1.0) -> Seen:
    return Seen(one, phase, NOW_S - age_s)


def desired(replicas: int = 1, **changes: object) -> Desired:
    base = {"surge_wait_s": 30.0, "drain_limit_s": 60.0, **changes}
    return Desired(fleet="f", revisions=("new",) * replicas, **base)  # type: ignore[arg-type]


def test_an_empty_cluster_gets_every_replica() -> None:
    assert plan(desired(3), [], NOW_S) == tuple(Create(index, "new") for index in range(3))


def test_what_runs_with_the_same_settings_is_taken_over() -> None:
    assert plan(desired(2), [seen(name(0)), seen(name(1))], NOW_S) == ()


def test_a_replica_that_waits_for_room_is_left_waiting() -> None:
    assert plan(desired(), [seen(name(), Phase.WAITING, 9_000)], NOW_S) == ()


@pytest.mark.parametrize("phase", sorted(OVER))
def test_what_is_over_is_removed_and_made_anew(phase: Phase) -> None:
    actions = plan(desired(), [seen(name(), phase)], NOW_S)
    assert actions == (Remove(name()), Create(0, "new"))


def test_one_that_was_lost_is_not_made_anew_before_its_time() -> None:
    wanted = desired(not_before_s={0: NOW_S + 1})
    assert plan(wanted, [], NOW_S) == ()
    assert plan(wanted, [], NOW_S + 1) == (Create(0, "new"),)


def test_an_engine_that_was_given_up_is_left_to_be_looked_at() -> None:
    assert plan(desired(), [seen(name(), Phase.FAILED)], NOW_S) == ()


def test_of_two_of_the_same_replica_the_one_that_serves_is_kept() -> None:
    both = [seen(name(token="a"), Phase.STARTING), seen(name(token="b"))]
    assert plan(desired(), both, NOW_S) == (Drain(name(token="a")),)


def test_too_many_replicas_are_drained_and_not_told_twice() -> None:
    extra = seen(name(1))
    assert plan(desired(1), [seen(name(0)), extra], NOW_S) == (Drain(name(1)),)
    draining = Seen(name(1), Phase.STOPPING, NOW_S, draining_since_s=NOW_S - 1)
    assert plan(desired(1), [seen(name(0)), draining], NOW_S) == ()


def test_one_that_does_not_stop_in_time_is_removed() -> None:
    stuck = Seen(name(1), Phase.STOPPING, NOW_S, draining_since_s=NOW_S - 60)
    assert plan(desired(1), [seen(name(0)), stuck], NOW_S) == (Remove(name(1)),)


def test_other_fleets_are_nobodys_business() -> None:
    others = [seen(name(0, fleet="g")), seen(name(5, fleet="g"), Phase.LOST)]
    assert plan(desired(0), others, NOW_S) == ()


def test_an_old_replica_serves_until_the_new_one_does() -> None:
    old = seen(name(0, "old"))
    assert plan(desired(), [old], NOW_S) == (Create(0, "new"),)
    assert plan(desired(), [old, seen(name(0), Phase.STARTING)], NOW_S) == ()
    assert plan(desired(), [old, seen(name(0))], NOW_S) == (Drain(old.name),)


def test_one_that_has_not_generated_for_us_replaces_nobody_and_is_not_given_up() -> None:
    unproven = replace(seen(name(0)), proven=False)
    old = replace(seen(name(0, "old")), proven=False)
    assert plan(desired(), [old], NOW_S) == (Create(0, "new"),)
    assert plan(desired(), [old, unproven], NOW_S) == ()


def test_an_old_replica_gives_way_when_the_new_one_finds_no_room() -> None:
    old = seen(name(0, "old"))
    assert plan(desired(), [old, seen(name(0), Phase.WAITING, 29)], NOW_S) == ()
    assert plan(desired(), [old, seen(name(0), Phase.WAITING, 30)], NOW_S) == (Drain(old.name),)


def test_replicas_are_replaced_one_at_a_time() -> None:
    olds = [seen(name(index, "old")) for index in range(3)]
    assert plan(desired(3), olds, NOW_S) == (Create(0, "new"),)
    assert plan(desired(3), [*olds, seen(name(0), Phase.STARTING)], NOW_S) == ()
    actions = plan(desired(3), [*olds, seen(name(0))], NOW_S)
    assert actions == (Drain(olds[0].name), Create(1, "new"))


def test_a_new_replica_that_fails_holds_the_others_back() -> None:
    olds = [seen(name(index, "old")) for index in range(2)]
    assert plan(desired(2), [*olds, seen(name(0), Phase.FAILED)], NOW_S) == ()


def test_an_old_replica_that_does_not_serve_is_not_waited_for() -> None:
    old = seen(name(0, "old"), Phase.STARTING)
    assert plan(desired(), [old], NOW_S) == (Create(0, "new"), Drain(old.name))
