"""Follows the KV events of all endpoints, and hands what they change on. Touches sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

import zmq

from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView, KvEventSource
from headrace.core.ids import EndpointId
from headrace.service.clock import RealClock
from headrace.service.log import get_logger
from headrace.service.tasks import Restart, Tasks
from kvcache.changes import IndexSink
from kvcache.shell.follower import Follower, StreamStatus, SubscriberSettings
from kvcache.stream import EventStream, Position

__all__ = ["StreamStatus", "Subscriber", "SubscriberSettings"]

_log = get_logger("kv_events")

_FOR_EVER: Final = Restart(limit=2**31)
"""An address that cannot be used must not end the gateway: it is tried again every 10 s."""


class Subscriber:
    """Follows the engines it is told to; ``run`` does the work until it is cancelled.

    Args:
        sink: Is handed all changes, from the event loop's thread.
        settings: Bounds.
        clock: The time.
        resume: Where earlier streams ended, if ``sink`` still has what they said.

    """

    def __init__(
        self,
        sink: IndexSink,
        settings: SubscriberSettings | None = None,
        clock: Clock | None = None,
        resume: Mapping[EndpointId, Position] | None = None,
    ) -> None:
        self._sink = sink
        self._settings = settings or SubscriberSettings()
        self._clock = clock or RealClock()
        self._resume = dict(resume or {})
        self._wanted: dict[EndpointId, KvEventSource] = {}
        self._changed = asyncio.Event()
        self._followers: dict[EndpointId, Follower] = {}
        self._tasks: dict[EndpointId, asyncio.Task[None]] = {}

    def follow(self, views: Iterable[EndpointView]) -> None:
        """Follow just these endpoints, those of them that publish events."""
        wanted = {view.endpoint_id: view.kv_events for view in views if view.kv_events is not None}
        limit = self._settings.limit_endpoints
        if len(wanted) > limit:
            _log.error("kv_events_too_many_endpoints", endpoints=len(wanted), limit=limit)
            wanted = dict(sorted(wanted.items())[:limit])
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Connect, follow and disconnect, as ``follow`` says, until cancelled.

        At its end ``sink`` is told to forget all: whoever wants to resume takes a snapshot and
        the positions in ``status`` before.
        """
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        context.set(zmq.MAX_SOCKETS, 4 * self._settings.limit_endpoints + 8)
        try:
            async with Tasks(self._clock) as tasks:
                while True:
                    await self._settle(tasks, context)
                    await self._changed.wait()
                    self._changed.clear()
        finally:
            for name in list(self._followers):
                self._drop(name)
            context.destroy(linger=0)

    def status(self) -> dict[EndpointId, StreamStatus]:
        """Return how each endpoint is followed, by id."""
        return {name: self._followers[name].status() for name in sorted(self._followers)}

    async def _settle(self, tasks: Tasks, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        for name, follower in list(self._followers.items()):
            if self._wanted.get(name) != follower.source:
                self._tasks[name].cancel()
                await asyncio.wait([self._tasks[name]])
                self._drop(name)
        for name, source in sorted(self._wanted.items()):
            if name not in self._followers:
                self._start(name, source, tasks, context)

    def _drop(self, name: EndpointId) -> None:
        del self._followers[name], self._tasks[name]
        self._sink.forgotten(name)
        self._sink.scheme(name, None)

    def _start(
        self,
        name: EndpointId,
        source: KvEventSource,
        tasks: Tasks,
        context: zmq.Context[zmq.Socket[bytes]],
    ) -> None:
        settings = self._settings
        stream = EventStream(
            replays=source.replay is not None,
            limits=settings.stream,
            guesses=settings.guesses,
            resume=self._resume.pop(name, None),
        )
        follower = Follower(name, source, stream, self._sink, settings, self._clock)
        self._followers[name] = follower
        work = partial(follower.run, context)
        self._tasks[name] = tasks.start(f"kv_events:{name}", work, restart=_FOR_EVER)
