"""A link between an engine's KV events and who follows them that can be made to lose them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import zmq
import zmq.asyncio

from headrace.core.endpoint import EndpointView, KvEventSource
from kvcache.events import REPLAY_END
from tests.support.kv_events import running

ANY_PORT = "tcp://127.0.0.1:*"


class Relay:
    """Passes on what an engine publishes, and asks it for replays on behalf of who asks here.

    Attributes:
        source: Where it is to be followed.
        losing: Published batches are dropped while this is set.
        refusing: Replays asked for are dropped, unanswered, while this is set.
        lost: Batches dropped so far.
        replayed: Batches sent again so far.

    """

    def __init__(self, context: zmq.asyncio.Context, engine: KvEventSource) -> None:
        self.losing = False
        self.refusing = False
        self.lost = 0
        self.replayed = 0
        self._context = context
        self._engine = engine
        context.linger = 0  # nothing is waited for that a dead engine was asked
        self._in = context.socket(zmq.SUB)
        self._in.connect(engine.events)
        self._in.subscribe(engine.topic)
        self._out = context.socket(zmq.PUB)
        self._asked = context.socket(zmq.ROUTER)
        addresses = []
        for socket in (self._out, self._asked):
            socket.bind(ANY_PORT)
            addresses.append(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self.source = KvEventSource(addresses[0], addresses[1], engine.topic)

    async def run(self) -> None:
        """Do so until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_on())
            group.create_task(self._replay())

    async def _pass_on(self) -> None:
        while True:
            frames = await self._in.recv_multipart()
            if self.losing:
                self.lost += 1
            else:
                await self._out.send_multipart(frames)

    async def _replay(self) -> None:
        while True:
            who, *asked = await self._asked.recv_multipart()
            if self.refusing:
                continue
            assert self._engine.replay is not None
            with self._context.socket(zmq.DEALER) as engine:
                engine.connect(self._engine.replay)
                await engine.send_multipart(asked)
                while True:
                    frames = await engine.recv_multipart()
                    await self._asked.send_multipart([who, *frames])
                    if frames[2] == REPLAY_END:
                        break
                    self.replayed += 1


@asynccontextmanager
async def relayed(
    views: list[EndpointView],
) -> AsyncIterator[tuple[list[EndpointView], list[Relay]]]:
    """Put a relay before each endpoint's events; yield the endpoints as seen behind them."""
    context = zmq.asyncio.Context()
    try:
        relays = [Relay(context, view.kv_events) for view in views if view.kv_events is not None]
        async with running(_all(relays)):
            yield (
                [
                    replace(view, kv_events=relay.source)
                    for view, relay in zip(views, relays, strict=True)
                ],
                relays,
            )
    finally:
        context.destroy(linger=0)


async def _all(relays: list[Relay]) -> None:
    async with asyncio.TaskGroup() as group:
        for relay in relays:
            group.create_task(relay.run())
