"""An engine's publisher and a subscriber with its index, for tests over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count

from headrace.core.endpoint import EndpointView, KvEventSource
from headrace.core.ids import EndpointId, ModelName
from kvcache.events import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch, KvEvent
from kvcache.hashing import BlockHasher, external
from kvcache.shell.publisher import EventPublisher
from kvcache.shell.subscriber import StreamStatus, Subscriber, SubscriberSettings
from tests.support.fleet_index import FleetIndex

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]

BLOCK_TOKENS = 4
QUICK = SubscriberSettings(
    replay_timeout_s=0.3,
    check_up_s=0.2,
    settle_s=0.05,
    lost_after_s=0.2,
    reconnect_s=(0.01, 0.05),
)


def names(tokens: list[int]) -> list[int]:
    return [external(digest) for digest in BlockHasher(BLOCK_TOKENS).hashes(tokens)]


class Engine:
    """What an engine publishes, and what it holds: the truth that an index must not exceed."""

    def __init__(self, publisher: EventPublisher, times: count[int]) -> None:
        self.publisher = publisher
        self.held: set[int] = set()
        self._times = times

    def source(self) -> KvEventSource:
        return KvEventSource(self.publisher.endpoint, self.publisher.replay_endpoint)

    def store(
        self, blocks: int, first_token: int, *, drop: bool = False, hold: bool = False
    ) -> None:
        tokens = list(range(first_token, first_token + blocks * BLOCK_TOKENS))
        hashes = names(tokens)
        self.held |= set(hashes)
        event = BlockStored(list(hashes), None, tokens, BLOCK_TOKENS, None, "GPU", None)
        self._publish([event], drop=drop, hold=hold)

    def evict(self, first_token: int, blocks: int, *, drop: bool = False) -> None:
        gone = names(list(range(first_token, first_token + blocks * BLOCK_TOKENS)))
        self.held -= set(gone)
        self._publish([BlockRemoved([name], "GPU") for name in reversed(gone)], drop=drop)

    def clear(self) -> None:
        self.held.clear()
        self._publish([AllBlocksCleared()])

    def _publish(self, events: list[KvEvent], *, drop: bool = False, hold: bool = False) -> None:
        batch = EventBatch(float(next(self._times)), events, 0)
        self.publisher.publish(batch, drop=drop, hold=hold)


class Watch:
    """A subscriber, its index, and what is to be seen of both."""

    def __init__(self, settings: SubscriberSettings) -> None:
        self.index = FleetIndex()
        self.subscriber = Subscriber(self.index, settings)

    def follow(self, **sources: KvEventSource | None) -> None:
        self.subscriber.follow(
            EndpointView(EndpointId(name), f"http://{name}", (ModelName("m"),), kv_events=source)
            for name, source in sources.items()
        )

    def status(self, name: str = "a") -> StreamStatus:
        return self.subscriber.status()[EndpointId(name)]

    def held(self, name: str = "a") -> set[int]:
        return self.index.held_by(EndpointId(name))

    def connected(self, name: str = "a") -> bool:
        statuses = self.subscriber.status()
        return EndpointId(name) in statuses and statuses[EndpointId(name)].connected


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


StartEngine = Callable[..., Awaitable[Engine]]
StartWatch = Callable[..., Awaitable[Watch]]
