"""Supervised background tasks: named, restarted with a bounded backoff, never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from headrace.core.clock import Clock
from headrace.service.clock import RealClock
from headrace.service.log import get_logger

_log = get_logger("tasks")


@dataclass(frozen=True, slots=True)
class Restart:
    """How often a failed task is started again before its failure ends the process.

    Attributes:
        limit: Restarts in a row; 0 makes the first failure final.
        first_s: Wait before the first restart; each further wait doubles.
        most_s: Longest wait.
        forgive_s: A task that ran this long has its past failures forgotten.

    """

    limit: int = 8
    first_s: float = 0.1
    most_s: float = 10.0
    forgive_s: float = 60.0


NO_RESTART: Final = Restart(limit=0)


class Tasks:
    """A scope of supervised tasks: ``async with Tasks() as tasks``.

    Leaving the scope cancels and awaits them all. A task whose restarts are used up cancels the
    body of the scope and its error is raised from it (in an ``ExceptionGroup``).
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or RealClock()
        self._group = asyncio.TaskGroup()
        self._running: dict[str, asyncio.Task[None]] = {}
        self.failures = 0

    async def __aenter__(self) -> Tasks:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._running.values():
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def start(
        self, name: str, work: Callable[[], Awaitable[None]], *, restart: Restart = NO_RESTART
    ) -> asyncio.Task[None]:
        """Run ``work()`` until it returns, restarting it when it fails.

        Raises:
            ValueError: if a task of that name is running.

        """
        if name in self._running:
            raise ValueError(f"task {name!r} is already running")
        task = self._group.create_task(self._supervise(name, work, restart), name=name)
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))
        return task

    def names(self) -> list[str]:
        """Return the names of the tasks that are running, in order."""
        return sorted(self._running)

    async def _supervise(
        self, name: str, work: Callable[[], Awaitable[None]], restart: Restart
    ) -> None:
        in_a_row = 0
        while True:
            started_s = self._clock.now_s()
            try:
                await work()
                return
            except Exception as error:  # one of the three broad ones: counted, logged, bounded
                self.failures += 1
                if self._clock.now_s() - started_s >= restart.forgive_s:
                    in_a_row = 0
                in_a_row += 1
                _log.error("task_failed", task=name, in_a_row=in_a_row, exc_info=error)
                if in_a_row > restart.limit:
                    raise
            wait_s = restart.first_s * 2 ** min(in_a_row - 1, 30)
            await self._clock.sleep(min(restart.most_s, wait_s))
