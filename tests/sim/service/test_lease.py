"""Several candidates for one lease, in virtual time, over a network that delays and loses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

import pytest
from typing_extensions import override

from headrace.service.kube.errors import KubeConflict, KubeUnreachable
from headrace.service.kube.lease import Lease, Terms
from headrace.service.kube.lease_shell import Elector, LeaseStore
from tests.support.virtual_time import VirtualClock, run_virtual

T = TypeVar("T")
TERMS = Terms(duration_s=15, renew_s=10.0, retry_s=2.0)
STOPPING_S = 3.0
"""Longest that work takes to stop: under duration_s - renew_s by more than clocks differ."""


@dataclass
class Server:
    """The one copy that counts."""

    lease: Lease | None = None
    version: int = 0
    writes: int = 0

    def write(self, lease: Lease) -> Lease:
        at = self.lease.version if self.lease else ""
        if lease.version != at:
            raise KubeConflict("it changed")
        self.version += 1
        self.writes += 1
        self.lease = replace(lease, version=str(self.version))
        return self.lease


@dataclass
class Network:
    """How bad it is at the moment."""

    rng: Random
    most_delay_s: float = 0.0
    lost_ratio: float = 0.0
    cut_off: set[int] = field(default_factory=set)

    def delay_s(self) -> float:
        return self.rng.random() ** 4 * self.most_delay_s

    def loses(self, candidate: int) -> bool:
        return candidate in self.cut_off or self.rng.random() < self.lost_ratio


class Link(LeaseStore):
    """One candidate's way to the server. What was sent arrives, though nobody waits any more."""

    def __init__(self, server: Server, network: Network, candidate: int) -> None:
        self._server = server
        self._network = network
        self._candidate = candidate

    @override
    async def read(self) -> Lease | None:
        return await self._call(lambda: self._server.lease)

    @override
    async def write(self, lease: Lease) -> Lease:
        return await self._call(lambda: self._server.write(lease))

    async def _call(self, act: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def answered(value: T | None, error: KubeConflict | None) -> None:
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(value)  # type: ignore[arg-type]

        def arrived() -> None:
            value, error = None, None
            try:
                value = act()
            except KubeConflict as conflict:
                error = conflict
            if not self._network.loses(self._candidate):
                loop.call_later(self._network.delay_s(), answered, value, error)

        if not self._network.loses(self._candidate):
            loop.call_later(self._network.delay_s(), arrived)
        try:
            async with asyncio.timeout(30):
                return await answer
        except TimeoutError:
            raise KubeUnreachable("no answer") from None


class Candidate:
    def __init__(self, world: World, number: int, clock: VirtualClock, rng: Random) -> None:
        self.elector = Elector(
            Link(world.server, world.network, number), f"c{number}", TERMS, clock, rng
        )
        self.working = False
        self.terms = 0
        self._rng = rng

    async def work(self) -> None:
        assert not self.working
        self.working = True
        self.terms += 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self._rng.random() * STOPPING_S)
            self.working = False


class World:
    def __init__(self, seed: int, candidates: int, *, pauses: bool = False) -> None:
        self.rng = Random(seed)
        self.server = Server()
        self.network = Network(Random(seed + 1))
        clock = PausingClock if pauses else VirtualClock
        self.candidates = [
            Candidate(
                self,
                number,
                clock(self.rng.uniform(0, 1e6), self.rng.uniform(0.97, 1.03)),
                Random(seed * 100 + number),
            )
            for number in range(candidates)
        ]

    @property
    def leading(self) -> list[int]:
        return [n for n, one in enumerate(self.candidates) if one.elector.leads]

    @property
    def working(self) -> list[int]:
        return [n for n, one in enumerate(self.candidates) if one.working]

    async def somebody_leads(self, within_s: float) -> float:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        while not self.leading:
            assert loop.time() - started_s < within_s, "nobody leads"
            await asyncio.sleep(0.05)
        return loop.time() - started_s


class PausingClock(VirtualClock):
    """Of a process that is now and then stopped for longer than a lease lasts."""

    def __init__(self, origin_s: float, rate: float) -> None:
        super().__init__(origin_s, rate)
        self._rng = Random(int(origin_s))

    @override
    async def sleep(self, delay_s: float) -> None:
        paused_s = self._rng.uniform(5.0, 60.0) if self._rng.random() < 0.05 else 0.0
        await super().sleep(delay_s + paused_s)


def _started(world: World, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
    return [group.create_task(one.elector.run(one.work)) for one in world.candidates]


async def _chaos(seed: int, *, pauses: bool) -> None:
    world = World(seed, 3, pauses=pauses)
    async with asyncio.TaskGroup() as group:
        tasks = _started(world, group)
        for _ in range(25):
            world.network.most_delay_s = world.rng.choice([0.0, 1.0, 20.0, 120.0])
            world.network.lost_ratio = world.rng.choice([0.0, 0.1, 0.5])
            world.network.cut_off = {n for n in range(3) if world.rng.random() < 0.2}
            for _ in range(80):
                await asyncio.sleep(0.25)
                assert len(world.leading) <= 1
                assert pauses or len(world.working) <= 1
        world.network.most_delay_s = world.network.lost_ratio = 0.0
        world.network.cut_off.clear()
        await asyncio.sleep(120)  # what is still under way arrives
        await world.somebody_leads(within_s=120)
        for task in tasks:
            task.cancel()
    assert not world.working
    if not pauses:
        assert sum(one.terms for one in world.candidates) >= 3, "leadership never changed"


@pytest.mark.parametrize("seed", range(8))
def test_no_two_ever_work_at_once_whatever_the_network_does(seed: int) -> None:
    run_virtual(_chaos(seed, pauses=False))


@pytest.mark.parametrize("seed", range(4))
def test_no_two_ever_believe_they_lead_though_processes_are_stopped_for_a_while(seed: int) -> None:
    run_virtual(_chaos(seed, pauses=True))


def test_another_leads_within_seconds_of_a_clean_stop() -> None:
    async def story() -> float:
        world = World(1, 2)
        async with asyncio.TaskGroup() as group:
            tasks = _started(world, group)
            await world.somebody_leads(within_s=1)
            (first,) = world.leading
            tasks[first].cancel()
            await asyncio.wait([tasks[first]])
            took_s = await world.somebody_leads(within_s=5)
            assert world.leading == [1 - first]
            tasks[1 - first].cancel()
        assert world.server.lease is not None
        assert world.server.lease.holder == ""
        return took_s

    assert run_virtual(story()) <= TERMS.retry_s * 1.1


def test_another_leads_after_the_lease_has_run_out_when_the_leader_dies() -> None:
    async def story() -> float:
        world = World(2, 2)
        async with asyncio.TaskGroup() as group:
            tasks = _started(world, group)
            await world.somebody_leads(within_s=1)
            (first,) = world.leading
            await asyncio.sleep(30)
            world.network.cut_off.add(first)
            started_s = asyncio.get_running_loop().time()
            await asyncio.sleep(TERMS.renew_s * 1.1)
            assert not world.leading
            await world.somebody_leads(within_s=20)
            assert world.leading == [1 - first]
            took_s = asyncio.get_running_loop().time() - started_s
            assert not world.candidates[first].working
            for task in tasks:
                task.cancel()
        return took_s

    assert 10.0 < run_virtual(story()) < (TERMS.duration_s + 2 * TERMS.retry_s) * 1.1


def test_a_leader_that_cannot_reach_the_server_stops_before_others_may_take_over() -> None:
    async def story() -> None:
        world = World(3, 1)
        async with asyncio.TaskGroup() as group:
            tasks = _started(world, group)
            await world.somebody_leads(within_s=1)
            world.network.cut_off.add(0)
            await asyncio.sleep(TERMS.renew_s * 1.1)
            assert not world.leading
            await asyncio.sleep(STOPPING_S)
            assert not world.working
            world.network.cut_off.clear()
            await world.somebody_leads(within_s=10)
            tasks[0].cancel()
        assert world.candidates[0].terms == 2

    run_virtual(story())


def test_a_late_answer_makes_nobody_lead_for_longer() -> None:
    class SlowAnswers(Link):
        @override
        async def write(self, lease: Lease) -> Lease:
            sent_s.append(asyncio.get_running_loop().time())
            written = await super().write(lease)
            await asyncio.sleep(4)
            return written

    sent_s: list[float] = []

    async def story() -> None:
        world = World(7, 1)
        clock = VirtualClock()
        link = SlowAnswers(world.server, world.network, 0)
        elector = Elector(link, "slow", TERMS, clock, Random(0))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(elector.run(world.candidates[0].work))
            await asyncio.sleep(4.1)
            assert elector.leads
            world.network.cut_off.add(0)
            await asyncio.sleep(sent_s[0] + TERMS.renew_s - clock.now_s() - 0.1)
            assert elector.leads
            await asyncio.sleep(0.2)
            assert not elector.leads
            task.cancel()

    run_virtual(story())


def test_one_call_renews_a_lease_and_a_short_outage_changes_nothing() -> None:
    async def story() -> None:
        world = World(4, 1)
        async with asyncio.TaskGroup() as group:
            tasks = _started(world, group)
            await asyncio.sleep(60)
            assert 25 <= world.server.writes <= 40
            world.network.cut_off.add(0)
            await asyncio.sleep(4)
            world.network.cut_off.clear()
            await asyncio.sleep(30)
            assert world.candidates[0].terms == 1
            assert world.leading == [0]
            tasks[0].cancel()

    run_virtual(story())


def test_what_work_raises_ends_it_and_gives_the_lease_back() -> None:
    async def broken() -> None:
        raise ValueError("broken")

    async def story() -> None:
        world = World(5, 1)
        with pytest.raises(ValueError, match="broken"):
            await world.candidates[0].elector.run(broken)
        assert world.server.lease is not None
        assert world.server.lease.holder == ""

    run_virtual(story())


def test_work_that_comes_to_its_end_ends_the_run() -> None:
    async def brief() -> None:
        await asyncio.sleep(7)

    async def story() -> None:
        world = World(6, 1)
        await world.candidates[0].elector.run(brief)
        assert not world.leading

    run_virtual(story())
