from __future__ import annotations

import pytest

from headrace.simulator.world import World


def test_actions_run_by_due_time_and_then_in_the_order_given() -> None:
    world = World(1)
    seen: list[str] = []
    world.at(20, lambda: seen.append("late"))
    world.at(10, lambda: seen.append("first"))
    world.at(10, lambda: seen.append("second"))
    assert world.run() == 3
    assert seen == ["first", "second", "late"]
    assert world.now_ns == 20


def test_an_action_may_add_another_that_is_due_at_once() -> None:
    world = World(1)
    seen: list[int] = []
    world.at(5, lambda: world.at(0, lambda: seen.append(world.now_ns)))
    world.run()
    assert seen == [5]


def test_running_until_a_moment_leaves_what_is_due_later() -> None:
    world = World(1)
    world.at(10, lambda: None)
    world.at(30, lambda: None)
    assert world.run(until_ns=20) == 1
    assert (world.now_ns, world.pending) == (20, 1)


def test_a_livelock_is_an_error() -> None:
    world = World(1)

    def again() -> None:
        world.at(0, again)

    world.at(0, again)
    with pytest.raises(RuntimeError, match="still busy after 100"):
        world.run(limit=100)


def test_each_purpose_has_a_generator_of_its_own() -> None:
    world = World(7)
    first = world.rng("a").random()
    world.rng("b").random()
    assert world.rng("a").random() == first
    assert world.rng("b").random() != first
    assert World(8).rng("a").random() != first


def test_the_digest_depends_on_every_line_its_time_and_order() -> None:
    def digest(*lines: tuple[int, str]) -> str:
        world = World(1)
        for due_ns, text in lines:
            world.at(due_ns, lambda text=text: world.note(text))  # type: ignore[misc]
        world.run()
        return world.digest()

    base = digest((1, "a"), (2, "b"))
    assert base == digest((1, "a"), (2, "b"))
    assert len({base, digest((1, "a"), (3, "b")), digest((1, "b"), (2, "a")), digest()}) == 4
