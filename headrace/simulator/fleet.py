"""Simulated engines in virtual time. Pure.

``EngineActor`` is the virtual-time shell of ``SimEngine``: it moves the world's clock from step to
step, takes quiet decode steps in stretches, and cuts a stretch when a request comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.core.ids import RequestId
from headrace.simulator.engine import EngineRequest, SimEngine, StepResult
from headrace.simulator.world import World

_MAX_STRETCH_STEPS: Final = 1 << 20

OnStep = Callable[[StepResult, float], None]
"""Called after each step or stretch with its result and the time it ended."""


class EngineActor:
    """One engine that runs by itself in a world."""

    def __init__(self, world: World, engine: SimEngine, on_step: OnStep) -> None:
        self.engine = engine
        self._world = world
        self._on_step = on_step
        self._end_s = 0.0
        self._version = 0

    def add(self, request: EngineRequest) -> None:
        """Give the engine a request now; it takes it up when the step under way ends.

        Raises:
            InvalidRequest: as ``SimEngine.add``.

        """
        self.engine.add(request, self._world.now_s)
        self._interrupt()

    def abort(self, request_id: RequestId) -> bool:
        """Drop a request now; False when the engine does not have it."""
        if self.engine.stepping:
            self._interrupt()
        return self.engine.abort(request_id)

    def _interrupt(self) -> None:
        if not self.engine.stepping:
            self._start()
            return
        begun_s = self._begun_s
        end_s = begun_s + self.engine.shorten(self._world.now_s)
        if end_s < self._end_s:
            self._due(end_s)

    def _start(self) -> None:
        self._begun_s = self._world.now_s
        duration_s = self.engine.begin_step(self._begun_s, _MAX_STRETCH_STEPS)
        if duration_s is not None:
            self._due(self._begun_s + duration_s)
        elif self.engine.wake_s is not None:
            self._version += 1
            self._world.at(self.engine.wake_s, self._wake(self._version))

    def _due(self, end_s: float) -> None:
        self._end_s = end_s
        self._version += 1
        self._world.at(end_s, self._end(self._version))

    def _end(self, version: int) -> Callable[[], None]:
        def end() -> None:
            if version == self._version:
                now_s = self._world.now_s
                result = self.engine.end_step(now_s)
                self._start()
                self._on_step(result, now_s)

        return end

    def _wake(self, version: int) -> Callable[[], None]:
        def wake() -> None:
            if version == self._version and not self.engine.stepping:
                self._start()

        return wake
