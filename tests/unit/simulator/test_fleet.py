from __future__ import annotations

from dataclasses import replace

from headrace.core.endpoint import Role
from headrace.core.ids import RequestId
from headrace.simulator.engine import EngineRequest, SimEngine, StepResult
from headrace.simulator.fleet import EngineActor
from headrace.simulator.presets import engine_spec
from headrace.simulator.world import World

SPEC = engine_spec("H100", "Llama-3.1-8B")


class Seen:
    """What an actor reported, with the time."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.results: list[tuple[float, StepResult]] = []

    def __call__(self, result: StepResult) -> None:
        self.results.append((self._world.now_s, result))

    def ends(self) -> dict[str, float]:
        return {f.request_id: at_s for at_s, r in self.results for f in r.finished}


def test_a_lone_request_takes_two_calls_not_one_per_token() -> None:
    world = World(1)
    seen = Seen(world)
    EngineActor(world, SimEngine(SPEC), seen).add(EngineRequest(RequestId("a"), 500, 200))
    world.run()
    assert [result.steps for _, result in seen.results] == [1, 199]


def test_a_request_that_arrives_during_a_stretch_does_not_wait_for_its_end() -> None:
    world = World(1)
    seen = Seen(world)
    actor = EngineActor(world, SimEngine(SPEC), seen)
    actor.add(EngineRequest(RequestId("long"), 500, 1000))
    world.at(1_000_000_000, lambda: actor.add(EngineRequest(RequestId("short"), 10, 2)))
    world.run()
    ends = seen.ends()
    assert ends["short"] < 1.1
    assert ends["long"] > 3.0


def test_an_aborted_request_leaves_and_the_rest_go_on() -> None:
    world = World(1)
    seen = Seen(world)
    actor = EngineActor(world, SimEngine(SPEC), seen)
    actor.add(EngineRequest(RequestId("a"), 500, 1000))
    actor.add(EngineRequest(RequestId("b"), 500, 1000))
    dropped: list[bool] = []
    world.at(500_000_000, lambda: dropped.append(actor.abort(RequestId("a"))))
    world.run()
    assert dropped == [True]
    assert set(seen.ends()) == {"b"}
    actor.engine.check()


def test_an_engine_that_waits_for_a_transfer_wakes_when_it_is_here() -> None:
    world = World(1)
    seen = Seen(world)
    spec = replace(SPEC, role=Role.DECODE, kv_transfer_latency_s=2.0)
    actor = EngineActor(world, SimEngine(spec), seen)
    actor.add(EngineRequest(RequestId("a"), 500, 2, kv_transfer_tokens=500))
    world.run()
    assert 2.0 < seen.ends()["a"] < 2.2


def test_new_work_for_an_engine_that_waits_for_a_transfer_starts_at_once() -> None:
    world = World(1)
    seen = Seen(world)
    spec = replace(SPEC, role=Role.DECODE, kv_transfer_latency_s=2.0)
    actor = EngineActor(world, SimEngine(spec), seen)
    actor.add(EngineRequest(RequestId("a"), 500, 2, kv_transfer_tokens=500))
    world.at(1_000_000_000, lambda: actor.add(EngineRequest(RequestId("b"), 10, 2)))
    world.run()
    ends = seen.ends()
    assert ends["b"] < 1.1
    assert 2.0 < ends["a"] < 2.2
