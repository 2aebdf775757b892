"""The store over Redis (5 or later; Valkey too), by pub/sub and keys that expire. Touches sockets.

Redis may go away at any time: publishing drops, the rest raises ``StoreError``, ``run`` connects
again with a bounded backoff, and a metric and one line per outage say so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import redis.asyncio as aredis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from typing_extensions import override

from headrace.core.clock import Clock
from headrace.core.errors import ConfigError, StoreError
from headrace.service.log import get_logger
from headrace.service.store import Deliver, Store
from headrace.service.telemetry import Telemetry

_log = get_logger("store")

_FAILURES: Final = (RedisError, OSError)
"""What a connection can die of; ``TimeoutError`` is an ``OSError``."""

_PIPELINE: Final = 64
"""Messages sent in one go."""

_CANCEL_S: Final = 0.1
"""Seconds after which a task that goes on is cancelled again."""

_SCAN_COUNT: Final = 500
"""Keys that Redis looks at per step of a scan, so that a scan does not hold up others."""


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How Redis is talked to.

    Attributes:
        url: ``redis://``, ``rediss://`` or ``unix://``; may hold a password.
        answer_s: Longest wait for a connection or an answer.
        probe_s: Silence after which a ping is sent; as long again and the connection is dead.
        retry_first_s: Wait before connecting again; doubles with each failure in a row.
        retry_most_s: Longest such wait.
        queue_messages: Messages waiting to be sent; more push out the oldest.
        queue_bytes: Their bytes, likewise.
        connections: Sockets to Redis.

    """

    url: str
    answer_s: float = 1.0
    probe_s: float = 1.0
    retry_first_s: float = 0.05
    retry_most_s: float = 2.0
    queue_messages: int = 1_024
    queue_bytes: int = 16 << 20
    connections: int = 8


class RedisStore(Store):
    """One client. Works while ``run`` does.

    Args:
        settings: How to connect.
        clock: For the backoff.
        telemetry: Where its state is shown.
        rng: Spreads the attempts of many clients.

    Raises:
        ConfigError: if the URL is not one of Redis.

    """

    def __init__(
        self, settings: RedisSettings, clock: Clock, telemetry: Telemetry, rng: Random
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        try:
            self._client = _connectable(settings)
        except ValueError as error:
            raise ConfigError(f"redis_url: {error}") from None
        self._subscribers: dict[str, list[Deliver]] = {}
        self._confirmed: set[str] = set()
        self._queue: deque[tuple[str, bytes]] = deque()
        self._queued_bytes = 0
        self._up = False
        self._heard = False  # something came since the last look
        self._wake = asyncio.Event()  # something to send, or to subscribe to
        self._settled = asyncio.Event()  # up, and every subscription is in force
        self._up_gauge = telemetry.gauge("headrace_store_up").labels()
        self._connects = telemetry.counter("headrace_store_connects_total")
        self._dropped = telemetry.counter("headrace_store_dropped_total")

    @property
    @override
    def up(self) -> bool:
        return self._up

    @override
    def publish(self, channel: str, payload: bytes) -> None:
        if not self._up:
            self._dropped.labels("down").inc()
            return
        self._queue.append((channel, payload))
        self._queued_bytes += len(payload)
        while (
            len(self._queue) > self._settings.queue_messages
            or self._queued_bytes > self._settings.queue_bytes
        ):
            self._queued_bytes -= len(self._queue.popleft()[1])
            self._dropped.labels("full").inc()
        self._wake.set()

    @override
    def subscribe(self, channel: str, deliver: Deliver) -> None:
        self._subscribers.setdefault(channel, []).append(deliver)
        self._changed()

    @override
    def unsubscribe(self, channel: str, deliver: Deliver) -> None:
        listening = self._subscribers.get(channel, [])
        if deliver in listening:
            listening.remove(deliver)
        if not listening:
            self._subscribers.pop(channel, None)
        self._changed()

    @override
    async def ready(self) -> None:
        await self._settled.wait()

    @override
    async def get(self, key: str) -> bytes | None:
        value = await self._answer(lambda: self._client.get(key))
        return None if value is None else bytes(value)

    @override
    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        ttl_ms = max(1, round(ttl_s * 1_000.0))
        await self._answer(lambda: self._client.set(key, value, px=ttl_ms))

    @override
    async def scan(self, prefix: str, limit: int) -> list[str]:
        found: list[str] = await self._answer(lambda: self._scan(prefix, limit))
        return found

    @override
    async def run(self) -> None:
        failures = 0
        try:
            while True:
                error = await self._session()
                failures = 1 if self._up else failures + 1
                self._went_down(error, first=failures == 1)
                most_s = min(
                    self._settings.retry_most_s,
                    self._settings.retry_first_s * 2.0 ** min(failures - 1, 30),
                )
                await self._clock.sleep(most_s * self._rng.uniform(0.5, 1.0))
        finally:
            self._up = False
            self._up_gauge.set(0.0)
            await self._client.aclose()

    async def _session(self) -> Exception:
        """Serve one connection until it fails; return how."""
        pubsub = self._client.pubsub()
        try:
            error = await _first_failure(self._open(pubsub))
            if error is None:
                error = await _first_failure(
                    self._send(pubsub), self._receive(pubsub), self._probe(pubsub)
                )
            assert error is not None  # those three go on for ever
            return error
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _open(self, pubsub: PubSub) -> None:
        await pubsub.connect()  # type: ignore[no-untyped-call]
        await self._client.ping()
        self._up = True
        self._up_gauge.set(1.0)
        self._connects.labels("ok").inc()
        _log.info("store_up")
        self._changed()

    def _went_down(self, error: Exception, *, first: bool) -> None:
        if not self._up:
            self._connects.labels("failed").inc()
        if first:
            effect = "replicas route on what they know"
            _log.warning("store_down", reason=_text(error), effect=effect)
        self._up = False
        self._up_gauge.set(0.0)
        self._confirmed.clear()
        self._settled.clear()
        if self._queue:  # old news by the time it could be sent
            self._dropped.labels("down").inc(len(self._queue))
            self._queue.clear()
            self._queued_bytes = 0

    async def _send(self, pubsub: PubSub) -> None:
        asked: set[str] = set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanted = set(self._subscribers)
            if new := sorted(wanted - asked):
                await pubsub.subscribe(*new)
            if old := sorted(asked - wanted):
                await pubsub.unsubscribe(*old)
            asked = wanted
            while self._queue:
                pipeline = self._client.pipeline(transaction=False)
                for _ in range(min(_PIPELINE, len(self._queue))):
                    channel, payload = self._queue.popleft()
                    self._queued_bytes -= len(payload)
                    pipeline.publish(channel, payload)
                await pipeline.execute()

    async def _receive(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=None)
            if message is not None:
                self._heard = True
                self._received(message)

    async def _probe(self, pubsub: PubSub) -> None:
        """Ping a connection that was silent, and fail when even that brings nothing."""
        pinged = False
        while True:
            await self._clock.sleep(self._settings.probe_s)
            if self._heard:
                pinged = False
            elif pinged:
                raise TimeoutError("no answer to a ping")
            else:
                await pubsub.ping()
                pinged = True
            self._heard = False

    def _received(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "pong":
            return
        channel = bytes(message["channel"]).decode()
        if kind == "message":
            for deliver in tuple(self._subscribers.get(channel, ())):
                deliver(message["data"])
        elif kind == "subscribe":
            self._confirmed.add(channel)
        elif kind == "unsubscribe":
            self._confirmed.discard(channel)
        self._settle()

    def _changed(self) -> None:
        self._wake.set()
        self._settle()

    def _settle(self) -> None:
        if self._up and self._confirmed >= self._subscribers.keys():
            self._settled.set()
        else:
            self._settled.clear()

    async def _answer(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        if not self._up:
            raise StoreError("Redis is not connected")
        found: list[Any] = []

        async def work() -> None:
            found.append(await ask())

        error = await _first_failure(work())
        if error is not None:
            raise StoreError(f"Redis: {_text(error)}")
        return found[0]

    async def _scan(self, prefix: str, limit: int) -> list[str]:
        pattern = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in prefix)
        found: dict[str, None] = {}  # a scan may give a key twice
        async for key in self._client.scan_iter(match=f"{pattern}*", count=_SCAN_COUNT):
            found[bytes(key).decode()] = None
            if len(found) >= limit:
                break
        return list(found)


def _connectable(settings: RedisSettings) -> aredis.Redis:
    return aredis.Redis.from_url(
        settings.url,
        protocol=2,
        decode_responses=False,
        max_connections=settings.connections,
        socket_timeout=settings.answer_s,
        socket_connect_timeout=settings.answer_s,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),  # ours is in ``run``
    )


async def _first_failure(*works: Coroutine[Any, Any, None]) -> Exception | None:
    """Run ``works`` until one of them ends; end the others; return what it failed of, if it did.

    Each is a task that is cancelled until it is done: redis-py waits with ``asyncio.wait_for``,
    which before Python 3.12 forgets a cancellation that meets what it waits for.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        errors = [task.exception() for task in tasks if task.done()]
    finally:
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=_CANCEL_S)
    for error in errors:
        if error is not None and not isinstance(error, _FAILURES):
            raise error
    return next((error for error in errors if isinstance(error, _FAILURES)), None)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
