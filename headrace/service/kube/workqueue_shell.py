"""Workers for a queue of keys: so many at once, one per key, errors retried. Waits on the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.service.kube.backoff import Backoff
from headrace.service.kube.workqueue import Queue
from headrace.service.log import get_logger

_log = get_logger("workqueue")

K = TypeVar("K", bound=Hashable)

_BACKOFF: Final = Backoff(first_s=0.1, most_s=60.0)


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """Bounds on the work.

    Attributes:
        workers: Keys worked on at once.
        one_s: Longest that work on one key may take; then it has failed.
        backoff: For keys that fail.

    """

    workers: int = 4
    one_s: float = 60.0
    backoff: Backoff = _BACKOFF


@dataclass(slots=True)
class WorkCounts:
    """What was done since the start: runs, failed ones among them, and the longest wait."""

    runs: int = 0
    failures: int = 0
    longest_wait_s: float = 0.0


class WorkQueue(Generic[K]):
    """A queue and its workers. Belongs to one event loop.

    Args:
        work: Does all there is to do for a key, as things are now. Returns in how many seconds it
            wants to be called again though nothing changes, or None.
        limits: Bounds on it.
        clock: For delays; the limit on one key is by the loop's.

    """

    def __init__(
        self, work: Callable[[K], Awaitable[float | None]], limits: WorkLimits, clock: Clock
    ) -> None:
        self._work = work
        self._limits = limits
        self._clock = clock
        self._queue: Queue[K] = Queue(limits.backoff)
        self._wake = asyncio.Event()
        self.counts = WorkCounts()

    def __len__(self) -> int:
        """Return how many keys wait for a worker."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether no key waits for a worker or has one; some may wait for their time."""
        return not len(self._queue) and not self._queue.working

    def add(self, key: K) -> None:
        """Have a key worked on as soon as may be."""
        self._queue.add(key, self._clock.now_s())
        self._wake.set()

    def add_after(self, key: K, delay_s: float) -> None:
        """Have a key worked on in ``delay_s``, or earlier if that was asked for."""
        self._queue.add_at(key, self._clock.now_s() + delay_s)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. What is in the queue stays for the next run."""
        free = asyncio.Semaphore(self._limits.workers)
        async with asyncio.TaskGroup() as group:
            while True:
                await free.acquire()
                key = await self._next()
                task = group.create_task(self._one(key))
                task.add_done_callback(lambda _: free.release())

    async def _next(self) -> K:
        while True:
            now_s = self._clock.now_s()
            taken = self._queue.take(now_s)
            if taken is not None:
                self.counts.longest_wait_s = max(self.counts.longest_wait_s, taken[1])
                return taken[0]
            self._wake.clear()
            due_s = self._queue.next_due_s()
            await self._woken(None if due_s is None else max(0.0, due_s - now_s))

    async def _woken(self, within_s: float | None) -> None:
        if within_s is None:
            await self._wake.wait()
            return
        parts = (
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(self._clock.sleep(within_s)),
        )
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()

    async def _one(self, key: K) -> None:
        self.counts.runs += 1
        try:
            async with asyncio.timeout(self._limits.one_s):
                again_s = await self._work(key)
        except asyncio.CancelledError:
            self._queue.put_back(key, self._clock.now_s())
            raise
        except Exception as error:  # noqa: BLE001 -- one key's error must not stop the others
            self._failed(key, error)
        else:
            self._queue.done(key)
            if again_s is not None:
                self.add_after(key, again_s)
        self._wake.set()

    def _failed(self, key: K, error: Exception) -> None:
        """Log the first unforeseen failure in a row in full, others in a line."""
        self.counts.failures += 1
        wait_s = self._queue.failed(key, self._clock.now_s())
        in_a_row = self._queue.failures(key)
        _log.warning(
            "work_failed",
            object="/".join(key) if isinstance(key, tuple) else str(key),
            in_a_row=in_a_row,
            again_in_s=wait_s,
            why=f"{type(error).__name__}: {error}",
            exc_info=error if in_a_row == 1 and not isinstance(error, HeadraceError) else None,
        )
