"""The plan of a fleet on Ray against a cluster that does what it is told, and loses things."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.fleets.ray.names import ReplicaName
from controller.fleets.ray.plan import OVER, Action, Create, Desired, Drain, Phase, Seen, plan

STEPS = 40

names = st.builds(
    ReplicaName,
    st.sampled_from(["f", "other"]),
    st.integers(0, 4),
    st.sampled_from(["old", "new"]),
    st.sampled_from("abc"),
)
worlds = st.dictionaries(
    names,
    st.tuples(st.sampled_from(list(Phase)), st.floats(0, 100), st.booleans()),
    max_size=8,
)


def observed(world: dict[ReplicaName, tuple[Phase, float, bool]]) -> dict[ReplicaName, Seen]:
    return {
        name: Seen(name, phase, -age_s, -1.0 if draining else None)
        for name, (phase, age_s, draining) in world.items()
    }


def done(world: dict[ReplicaName, Seen], actions: tuple[Action, ...], step: int) -> None:
    """Do as the shell does, in a cluster with room for all."""
    for action in actions:
        if isinstance(action, Create):
            name = ReplicaName("f", action.index, action.revision, f"t{step}")
            world[name] = Seen(name, Phase.GATHERING, float(step))
        elif isinstance(action, Drain):
            one = world[action.name]
            world[action.name] = replace(
                one, phase=Phase.STOPPED, draining_since_s=float(step), since_s=float(step)
            )
        else:
            del world[action.name]


def grown(world: dict[ReplicaName, Seen], step: int) -> None:
    """All that can become ready does."""
    for name, one in world.items():
        if one.phase not in OVER and one.phase is not Phase.FAILED and one.draining_since_s is None:
            world[name] = replace(one, phase=Phase.READY, since_s=float(step))


@given(worlds, st.integers(0, 4))
def test_it_comes_to_rest_with_one_serving_incarnation_of_each_replica(
    start: dict[ReplicaName, tuple[Phase, float, bool]], replicas: int
) -> None:
    world = observed(start)
    others = {name: one for name, one in world.items() if name.fleet != "f"}
    failed = {n.index for n, s in world.items() if s.phase is Phase.FAILED and n.revision == "new"}
    wanted = Desired("f", ("new",) * replicas, 30.0, 60.0)
    for step in range(1, STEPS):
        actions = plan(wanted, list(world.values()), float(step * 100))
        done(world, actions, step)
        grown(world, step)
    assert plan(wanted, list(world.values()), STEPS * 100.0) == ()
    ours = [one for name, one in world.items() if name.fleet == "f"]
    if not failed:
        assert sorted(one.name.index for one in ours) == list(range(replicas))
        assert all(one.phase is Phase.READY and one.name.revision == "new" for one in ours)
    assert {name: world[name] for name in others} | {} == {
        name: world[name] for name in world if name.fleet != "f"
    }


@given(worlds, st.integers(0, 4), st.floats(0, 200))
def test_a_replica_that_serves_with_the_settings_wanted_is_never_touched_unless_doubled(
    start: dict[ReplicaName, tuple[Phase, float, bool]], replicas: int, now_s: float
) -> None:
    world = observed(start)
    wanted = Desired("f", ("new",) * replicas, 30.0, 1_000.0)
    actions = plan(wanted, list(world.values()), now_s)
    told = [action.name for action in actions if not isinstance(action, Create)]
    assert len(told) == len(set(told)), "one action for one incarnation"
    for index in range(replicas):
        serving = [
            name
            for name, one in world.items()
            if name.fleet == "f"
            and name.index == index
            and name.revision == "new"
            and one.phase is Phase.READY
            and one.draining_since_s is None
        ]
        if serving:
            assert len(set(serving) - set(told)) == 1
            assert not [
                each for each in actions if isinstance(each, Create) and each.index == index
            ]
    made = [action.index for action in actions if isinstance(action, Create)]
    assert len(made) == len(set(made))


@given(worlds, st.integers(0, 4))
def test_the_order_of_what_is_seen_does_not_matter(
    start: dict[ReplicaName, tuple[Phase, float, bool]], replicas: int
) -> None:
    seen = list(observed(start).values())
    wanted = Desired("f", ("new",) * replicas, 30.0, 60.0)
    shuffled = list(reversed(seen))
    assert plan(wanted, seen, 5.0) == plan(wanted, shuffled, 5.0)
