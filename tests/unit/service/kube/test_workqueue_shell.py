from __future__ import annotations

import asyncio

import pytest

from headrace.service.kube.backoff import Backoff
from headrace.service.kube.workqueue_shell import WorkLimits, WorkQueue
from tests.support.virtual_time import VirtualClock, run_virtual

LIMITS = WorkLimits(workers=2, one_s=30.0, backoff=Backoff(1.0, 8.0))


class Work:
    """Takes a second per key, and remembers what overlapped."""

    def __init__(self, takes_s: float = 1.0) -> None:
        self.queue = WorkQueue(self.one, LIMITS, VirtualClock())
        self.takes_s = takes_s
        self.began: list[tuple[str, float]] = []
        self.now: list[str] = []
        self.most_at_once = 0
        self.again_s: dict[str, float] = {}
        self.failing: set[str] = set()

    async def one(self, key: str) -> float | None:
        assert key not in self.now, "one key was worked on twice at once"
        self.began.append((key, asyncio.get_running_loop().time()))
        self.now.append(key)
        self.most_at_once = max(self.most_at_once, len(self.now))
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.now.remove(key)
        if key in self.failing:
            raise ValueError("as told")
        return self.again_s.pop(key, None)


def test_keys_are_worked_on_side_by_side_up_to_the_number_of_workers() -> None:
    async def story() -> None:
        work = Work()
        running = asyncio.create_task(work.queue.run())
        for key in "abcd":
            work.queue.add(key)
        await asyncio.sleep(2.5)
        assert [began_s for _, began_s in work.began] == [0, 0, 1, 1]
        assert work.most_at_once == 2
        assert work.queue.idle
        running.cancel()

    run_virtual(story())


def test_a_key_changed_during_its_work_is_worked_on_once_more_and_never_beside_itself() -> None:
    async def story() -> None:
        work = Work()
        running = asyncio.create_task(work.queue.run())
        for _ in range(10):
            work.queue.add("a")
            await asyncio.sleep(0.05)
        await asyncio.sleep(5)
        assert work.began == [("a", 0.0), ("a", 1.0)]
        running.cancel()

    run_virtual(story())


def test_work_says_when_it_wants_to_be_called_again() -> None:
    async def story() -> None:
        work = Work(takes_s=0)
        work.again_s["a"] = 5.0
        running = asyncio.create_task(work.queue.run())
        work.queue.add("a")
        await asyncio.sleep(60)
        assert work.began == [("a", 0.0), ("a", 5.0)]
        running.cancel()

    run_virtual(story())


def test_a_key_that_fails_comes_back_later_each_time_and_keeps_nobody_waiting() -> None:
    async def story() -> None:
        work = Work(takes_s=0)
        work.failing.add("bad")
        running = asyncio.create_task(work.queue.run())
        work.queue.add("bad")
        await asyncio.sleep(0.5)
        work.queue.add("good")
        await asyncio.sleep(16)
        assert ("good", 0.5) in work.began
        assert [began_s for key, began_s in work.began if key == "bad"] == [0, 1, 3, 7, 15]
        assert work.queue.counts.failures == 5
        running.cancel()

    run_virtual(story())


def test_work_that_hangs_fails_at_its_limit() -> None:
    async def story() -> None:
        work = Work(takes_s=1e9)
        running = asyncio.create_task(work.queue.run())
        work.queue.add("a")
        await asyncio.sleep(40)
        assert [began_s for _, began_s in work.began] == [0, 31]
        running.cancel()

    run_virtual(story())


def test_what_was_broken_off_is_done_by_the_next_run() -> None:
    async def story() -> None:
        work = Work()
        first = asyncio.create_task(work.queue.run())
        for key in "abc":
            work.queue.add(key)
        await asyncio.sleep(0.5)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert work.now == []
        second = asyncio.create_task(work.queue.run())
        await asyncio.sleep(5)
        assert sorted(key for key, began_s in work.began if began_s >= 0.5) == ["a", "b", "c"]
        second.cancel()

    run_virtual(story())
