"""Simulated engines in virtual time. Pure.

``EngineActor`` is the virtual-time shell of ``SimEngine``: it moves from step to step on a world's
clock, takes quiet decode steps in stretches, and cuts a stretch short when a request comes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headrace.core.ids import RequestId
from headrace.simulator.engine import EngineRequest, SimEngine, StepResult
from headrace.simulator.world import World

_MAX_STRETCH_STEPS: Final = 1 << 20

OnStep = Callable[[StepResult], None]
"""Called when a step or a stretch has ended, at that moment of the world."""


class EngineActor:
    """One engine that runs by itself in a world."""

    def __init__(self, world: World, engine: SimEngine, on_step: OnStep) -> None:
        self.engine = engine
        self._world = world
        self._on_step = on_step
        self._begun_ns = 0
        self._alarm = 0  # the number of the alarm that counts; those set before it do nothing

    def add(self, request: EngineRequest) -> None:
        """Give the engine a request now; it takes it up when the step under way ends.

        Raises:
            InvalidRequest: as ``SimEngine.add``.

        """
        self.engine.add(request, self._world.now_s)
        if self.engine.stepping:
            self._shorten()
        else:
            self._begin()

    def abort(self, request_id: RequestId) -> bool:
        """Drop a request now; False when the engine does not have it."""
        if self.engine.stepping:
            self._shorten()
        return self.engine.abort(request_id)

    def _begin(self) -> None:
        self._begun_ns = self._world.now_ns
        duration_s = self.engine.begin_step(self._world.now_s, _MAX_STRETCH_STEPS)
        if duration_s is not None:
            self._set_alarm(self._begun_ns + round(duration_s * 1e9))
        elif self.engine.wake_s is not None:
            self._set_alarm(round(self.engine.wake_s * 1e9) + 1)

    def _shorten(self) -> None:
        duration_s = self.engine.shorten(self._world.now_s)
        self._set_alarm(self._begun_ns + round(duration_s * 1e9))

    def _set_alarm(self, due_ns: int) -> None:
        self._alarm += 1
        alarm = self._alarm
        delay_ns = max(0, due_ns - self._world.now_ns)
        self._world.at(delay_ns, lambda: self._rang(alarm))

    def _rang(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        if not self.engine.stepping:
            self._begin()
            return
        result = self.engine.end_step(self._world.now_s)
        self._begin()
        self._on_step(result)
