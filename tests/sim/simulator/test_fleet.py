"""Whole fleets in virtual time: nothing is lost, nothing is left, and it all happens again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from headrace.core.ids import RequestId
from headrace.simulator.engine import SimEngine, StepResult
from headrace.simulator.fleet import EngineActor
from headrace.simulator.presets import HARDWARE, MODELS
from headrace.simulator.spec import EngineSpec
from headrace.simulator.synthetic import WORKLOADS, synthesize
from headrace.simulator.workload import engine_request
from headrace.simulator.world import World

SPEC = EngineSpec(
    HARDWARE["L4"],
    MODELS["Llama-3.1-8B"],
    num_blocks=2400,
    max_num_seqs=12,
    max_num_batched_tokens=2048,
    record_events=True,
)


class Fleet:
    """Engines under a workload that overloads them; every tenth request is aborted on its way."""

    def __init__(self, workload: str, seed: int, spec: EngineSpec) -> None:
        self.world = World(seed)
        self._chance = self.world.rng("placement")
        self._requests = [
            request
            for request in synthesize(workload, seed, 3.0, 40.0)
            if request.prompt_tokens + request.output_tokens <= spec.context_tokens
        ]
        self._spec = spec
        self._tokens: dict[str, int] = {}
        self._ended: set[str] = set()
        self._actors = [EngineActor(self.world, SimEngine(spec), self._stepped) for _ in range(3)]

    def run(self) -> None:
        """Run to the end and check that nothing was lost and nothing is left."""
        for number, request in enumerate(self._requests):
            self.world.at(round(request.arrival_s * 1e9), partial(self._arrive, number))
        self.world.at(1, self._check)
        self.world.run(limit=2_000_000)
        assert len(self._ended) == len(self._requests)
        for actor in self._actors:
            actor.engine.check()
            assert (actor.engine.running, actor.engine.waiting) == (0, 0)
            assert actor.engine.kv_used_ratio == 0.0

    def _arrive(self, number: int) -> None:
        actor = self._chance.choice(self._actors)
        name = RequestId(str(number))
        actor.add(engine_request(self._requests[number], name, number, self._spec.block_size))
        if number % 10 == 0:
            delay_ns = round(self._chance.uniform(0.0, 20.0) * 1e9)
            self.world.at(delay_ns, partial(self._abort, actor, name))

    def _abort(self, actor: EngineActor, name: RequestId) -> None:
        if actor.abort(name):
            self._end(name, "abort")

    def _stepped(self, result: StepResult) -> None:
        for name in result.first:
            self.world.note(f"first {name}")
        for name in result.emitted:
            self._tokens[name] = self._tokens.get(name, 0) + result.steps
        for finished in result.finished:
            assert self._tokens[finished.request_id] == finished.output_tokens
            self._end(finished.request_id, f"cached {finished.cached_tokens}")

    def _end(self, name: str, how: str) -> None:
        assert name not in self._ended, "two outcomes"
        self._ended.add(name)
        self.world.note(f"end {name} {how}")

    def _check(self) -> None:
        for actor in self._actors:
            actor.engine.check()
            for event in actor.engine.drain_events():
                self.world.note(str(event))
        if self.world.pending:
            self.world.at(1_000_000_000, self._check)


def run(workload: str, seed: int, spec: EngineSpec = SPEC) -> str:
    fleet = Fleet(workload, seed, spec)
    fleet.run()
    return fleet.world.digest()


@pytest.mark.parametrize("workload", sorted(WORKLOADS))
@pytest.mark.parametrize("seed", range(2))
def test_a_fleet_under_overload_loses_nothing_and_drains(workload: str, seed: int) -> None:
    run(workload, seed)


def test_synchronous_engines_drain_as_well() -> None:
    run("conversation", 5, replace(SPEC, async_scheduling=False))


def test_priority_engines_drain_as_well() -> None:
    run("conversation", 6, replace(SPEC, scheduling="priority"))


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_the_same_seed_gives_the_same_digest_whatever_the_hash_seed(hash_seed: str) -> None:
    expected = run("conversation", 11)
    program = f"import runpy; print(runpy.run_path({__file__!r})['run']('conversation', 11))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == expected
    assert run("conversation", 12) != expected
