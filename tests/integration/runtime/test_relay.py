"""KV events of a publisher, passed on by a relay to subscribers that never meet the publisher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import zmq
import zmq.asyncio

from headrace.core.errors import ConfigError
from headrace.runtime.config import KvEventAddresses
from headrace.runtime.sidecar.config import RelaySettings
from headrace.runtime.sidecar.relay import Relay
from headrace.service.telemetry import Telemetry
from kvcache.events import AllBlocksCleared, EventBatch
from kvcache.shell.publisher import EventPublisher, PublisherSettings

LIMIT_S = 20.0
TOPIC = "kv@engine"


class Engine:
    """A publisher that can end and begin again at the same addresses."""

    def __init__(self, events: str, replay: str) -> None:
        self._settings = PublisherSettings(events, replay, TOPIC, bind=True)
        self._begin()

    def _begin(self) -> None:
        self.publisher = EventPublisher(self._settings)
        self.publisher.open()
        self._replays = asyncio.create_task(self.publisher.serve_replays())

    def publish(self, at_s: float, *, drop: bool = False) -> int:
        return self.publisher.publish(EventBatch(at_s, [AllBlocksCleared()]), drop=drop)

    async def end(self) -> None:
        self._replays.cancel()
        await asyncio.gather(self._replays, return_exceptions=True)
        self.publisher.close()

    async def restart(self) -> None:
        await self.end()
        self._begin()


@pytest.fixture
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    place = tmp_path_factory.mktemp("kv")
    engine = Engine(f"ipc://{place}/ev", f"ipc://{place}/rp")
    yield engine
    await engine.end()


class Follower:
    """A gateway's sockets, in the raw."""

    def __init__(self, context: zmq.asyncio.Context, relay: Relay) -> None:
        self.sub = context.socket(zmq.SUB)
        self.sub.setsockopt_string(zmq.SUBSCRIBE, TOPIC)
        self.sub.connect(relay.events)
        self.ask = context.socket(zmq.DEALER)
        self.ask.connect(relay.replay)

    async def next(self) -> tuple[int, bytes]:
        topic, seq, payload = await asyncio.wait_for(self.sub.recv_multipart(), LIMIT_S)
        assert topic == TOPIC.encode()
        return int.from_bytes(seq, "big"), payload

    async def replay(self, start: int) -> list[tuple[int, bytes]]:
        await self.ask.send_multipart((b"", start.to_bytes(8, "big")))
        found: list[tuple[int, bytes]] = []
        while True:
            empty, _, seq, payload = await asyncio.wait_for(self.ask.recv_multipart(), LIMIT_S)
            assert empty == b""
            number = int.from_bytes(seq, "big", signed=True)
            if number < 0:
                return found
            found.append((number, payload))

    async def joined(self, engine: Engine) -> int:
        """Publish until something comes; return the number of the last batch."""
        last = -1
        async with asyncio.timeout(LIMIT_S):
            while True:
                last = engine.publish(0.0)
                if await self.sub.poll(50):
                    while (await self.next())[0] != last:
                        pass
                    return last


@pytest.fixture
async def relay(engine: Engine, telemetry: Telemetry) -> AsyncIterator[Relay]:
    addresses = KvEventAddresses(
        events=engine.publisher.endpoint, replay=engine.publisher.replay_endpoint, topic=TOPIC
    )
    settings = RelaySettings(
        engine=addresses,
        events="tcp://127.0.0.1:*",
        replay="tcp://127.0.0.1:*",
        batches=100,
        replay_s=LIMIT_S,  # a machine that stands still for a moment leaves no hole
    )
    relay = Relay(addresses, settings, telemetry)
    relay.open()
    tasks = [asyncio.create_task(work()) for work in (relay.follow, relay.serve_replays)]
    yield relay
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    relay.close()


@pytest.fixture
async def follow(relay: Relay) -> AsyncIterator[Follower]:
    async with AsyncExitStack() as stack:
        context = zmq.asyncio.Context(io_threads=1)
        stack.callback(context.destroy, linger=0)
        yield Follower(context, relay)


async def test_batches_and_their_numbers_pass_unchanged_and_are_sent_again_when_asked(
    engine: Engine, follow: Follower
) -> None:
    last = await follow.joined(engine)
    sent = [engine.publish(float(at)) for at in range(5)]
    came = [await follow.next() for _ in sent]
    assert [seq for seq, _ in came] == sent == list(range(last + 1, last + 6))
    assert await follow.replay(last + 1) == came
    assert [seq for seq, _ in await follow.replay(0)] == list(range(last + 6))


async def test_a_hole_is_filled_from_the_engine_before_what_follows_it_is_passed_on(
    engine: Engine, follow: Follower, telemetry: Telemetry
) -> None:
    last = await follow.joined(engine)
    engine.publish(1.0, drop=True)
    engine.publish(2.0, drop=True)
    engine.publish(3.0)
    assert [(await follow.next())[0] for _ in range(3)] == [last + 1, last + 2, last + 3]
    repaired = telemetry.counter("headrace_kv_relay_batches_total").labels("repaired")
    assert repaired.value >= 2
    assert telemetry.counter("headrace_kv_relay_gaps_total").labels().value == 0


async def test_what_was_published_before_the_relay_is_there_for_those_who_ask(
    engine: Engine, telemetry: Telemetry
) -> None:
    for at in range(4):
        engine.publish(float(at), drop=True)
    addresses = KvEventAddresses(
        events=engine.publisher.endpoint, replay=engine.publisher.replay_endpoint, topic=TOPIC
    )
    relay = Relay(
        addresses,
        RelaySettings(events="tcp://127.0.0.1:*", replay="tcp://127.0.0.1:*"),
        telemetry,
    )
    relay.open()
    tasks = [asyncio.create_task(work()) for work in (relay.follow, relay.serve_replays)]
    context = zmq.asyncio.Context(io_threads=1)
    try:
        follower = Follower(context, relay)
        async with asyncio.timeout(LIMIT_S):
            while [seq for seq, _ in await follower.replay(0)] != [0, 1, 2, 3]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        context.destroy(linger=0)
        relay.close()


async def test_a_restarted_engine_begins_anew_and_its_old_batches_are_not_sent_again(
    engine: Engine, follow: Follower
) -> None:
    await follow.joined(engine)
    old = {payload for _, payload in await follow.replay(0)}
    await engine.restart()
    async with asyncio.timeout(LIMIT_S):
        while True:
            engine.publish(77.0)
            if await follow.sub.poll(50):
                break
    assert (await follow.next())[0] == 0
    again = await follow.replay(0)
    assert [seq for seq, _ in again] == list(range(len(again)))
    assert not old & {payload for _, payload in again}


async def test_a_restart_that_the_numbers_hide_is_seen_by_what_the_batches_are(
    engine: Engine, follow: Follower
) -> None:
    last = await follow.joined(engine)
    await engine.restart()
    for _ in range(last + 2):
        engine.publish(55.0, drop=True)  # lost on the way, as while a subscriber reconnects
    async with asyncio.timeout(LIMIT_S):
        while True:
            engine.publish(66.0)
            if await follow.sub.poll(50):
                break
    assert (await follow.next())[0] == 0


async def test_an_address_that_is_taken_is_told(relay: Relay, telemetry: Telemetry) -> None:
    addresses = KvEventAddresses(events="tcp://127.0.0.1:1")
    settings = RelaySettings(events=relay.events, replay="tcp://127.0.0.1:*")
    with pytest.raises(ConfigError, match=r"kv_relay: .*in use"):
        Relay(addresses, settings, telemetry).open()
