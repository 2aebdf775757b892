"""The shell of sharing, over the memory store in one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from gateway.sharing import Sharing, SharingOptions
from headrace.core.ids import BlockHash, EndpointId, RequestId
from headrace.service.clock import RealClock
from headrace.service.store import MemoryHub, MemoryStore
from headrace.service.telemetry import Telemetry
from router.replicas import SharingLimits
from router.reserve import ReplicaId, Reserve
from tests.support.reserve_mirror import Mirror

LIMIT_S = 10.0
LIMITS = SharingLimits(lost_after_s=0.2, resync_s=0.01)


class Replica:
    """One replica: its sharing, and what it knows of others."""

    def __init__(self, hub: MemoryHub, name: str, epoch: int = 1) -> None:
        self.telemetry = Telemetry(CollectorRegistry())
        self.mirror = Mirror()
        self.store = MemoryStore(hub)
        self.applied = 0
        options = SharingOptions(
            ReplicaId(name), epoch, share_s=0.001, heartbeat_s=0.01, limits=LIMITS
        )
        self.sharing = Sharing(
            options, self.store, self.mirror, RealClock(), self.telemetry, self._count
        )

    def _count(self) -> None:
        self.applied += 1

    def dispatch(self, name: str) -> None:
        self.sharing.on_dispatched(
            Reserve(
                RequestId(name),
                EndpointId("e"),
                1.0,
                2.0,
                RealClock().now_s(),
                blocks=(BlockHash(1),),
            )
        )

    def count(self, event: str) -> float:
        return self.telemetry.counter("headrace_router_sharing_messages_total").labels(event).value

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Replica]:
        task = asyncio.create_task(self.sharing.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait((task,))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not true():  # noqa: ASYNC110 -- what is waited for happens in timers
            await asyncio.sleep(0.001)


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub(RealClock())


async def test_what_one_dispatches_the_other_counts_until_its_end(hub: MemoryHub) -> None:
    async with Replica(hub, "a").running() as a, Replica(hub, "b").running() as b:
        a.dispatch("r")
        await until(lambda: "r" in b.mirror.view(ReplicaId("a")))
        assert b.applied >= 1
        a.sharing.on_first_token(RequestId("r"), RealClock().now_s())
        await until(lambda: b.mirror.view(ReplicaId("a"))[RequestId("r")][2])
        a.sharing.on_released(RequestId("r"), RealClock().now_s())
        await until(lambda: not b.mirror.view(ReplicaId("a")))
        assert a.mirror.held == {}


async def test_events_close_together_go_into_one_message(hub: MemoryHub) -> None:
    async with Replica(hub, "a").running() as a, Replica(hub, "b").running() as b:
        await until(lambda: b.count("idle") > 0)
        for number in range(100):
            a.dispatch(str(number))
        await until(lambda: len(b.mirror.view(ReplicaId("a"))) == 100)
        assert b.count("applied") == 1


async def test_who_starts_late_gets_to_know_what_is_in_flight(hub: MemoryHub) -> None:
    async with Replica(hub, "a").running() as a:
        for number in range(10):
            a.dispatch(str(number))
        await until(lambda: a.count("sent") >= 2)
        async with Replica(hub, "b").running() as b:
            await until(lambda: len(b.mirror.view(ReplicaId("a"))) == 10)
            assert b.sharing.synced
            assert a.count("snapshot_sent") >= 1


async def test_events_before_the_start_are_told_after_it(hub: MemoryHub) -> None:
    a = Replica(hub, "a")
    a.dispatch("early")
    async with Replica(hub, "b").running() as b, a.running():
        await until(lambda: "early" in b.mirror.view(ReplicaId("a")))


async def test_a_replica_that_ends_loses_its_reserves_and_its_gauge(hub: MemoryHub) -> None:
    async with Replica(hub, "b").running() as b:
        async with Replica(hub, "a").running() as a:
            a.dispatch("r")
            await until(lambda: bool(b.mirror.view(ReplicaId("a"))))
            gauge = b.telemetry.gauge("headrace_router_sharing_lag_seconds")
            await until(lambda: [values for values, _ in gauge.series()] == [("a",)])
            assert 0.0 <= gauge.labels("a").value < LIMITS.lost_after_s
            assert b.sharing.peers.keys() == {"a"}
        before = b.applied
        await until(lambda: not b.mirror.view(ReplicaId("a")))
        assert b.applied > before
        assert list(gauge.series()) == []
        assert b.count("lost") == 1


async def test_the_way_there_and_back_is_measured(hub: MemoryHub) -> None:
    async with Replica(hub, "a").running() as a:
        a.dispatch("r")
        delay = a.telemetry.histogram("headrace_router_sharing_delay_seconds").labels()
        await until(lambda: sum(delay.counts) == 1)
        assert 0.0 <= delay.sum < LIMIT_S


async def test_two_of_one_name_do_no_harm_and_are_told_of(
    hub: MemoryHub, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Replica(hub, "a", 1).running() as a, Replica(hub, "a", 2).running() as twin:
        a.dispatch("r")
        twin.dispatch("r")
        await until(lambda: a.count("own") > 3 and twin.count("own") > 3)
        assert a.mirror.held == twin.mirror.held == {}
    assert capsys.readouterr().out.count("replica_name_taken") == 2


async def test_what_is_not_a_message_is_counted_and_ignored(hub: MemoryHub) -> None:
    async with Replica(hub, "a").running() as a:
        await until(lambda: a.count("own") > 0)  # it listens
        stranger = MemoryStore(hub)
        stranger.publish("headrace:reserves", b"")
        stranger.publish("headrace:reserves", b"\x95\x01\xff")
        stranger.publish("headrace:reserves", b"\x92\x02\x00")
        await until(lambda: a.count("malformed") == 1 and a.count("other_version") == 2)


async def test_after_the_end_nothing_is_sent(hub: MemoryHub) -> None:
    a = Replica(hub, "a")
    async with a.running():
        a.dispatch("r")
    sent = a.count("sent")
    a.dispatch("s")
    a.sharing.on_released(RequestId("r"), 0.0)
    async with Replica(hub, "b").running() as b:
        await until(lambda: b.count("own") > 3)
    assert a.count("sent") == sent
