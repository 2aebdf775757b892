"""Tells other gateway replicas what this one has in flight, and takes in what they tell.

The shell around ``router.replicas``: timers, bytes, the store and metrics. Uses the event loop.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from typing_extensions import override

from gateway.config import SharingSettings
from headrace.core.clock import Clock
from headrace.core.ids import RequestId
from headrace.service.log import get_logger
from headrace.service.store import Store
from headrace.service.store_redis import RedisSettings, RedisStore
from headrace.service.telemetry import Telemetry
from router.replica_wire import Codec, Message
from router.replicas import Heard, Inbox, Outbox, SharingLimits
from router.reserve import ReplicaId, Reserve, ReserveObserver, ReserveSink
from router.router import Router

_log = get_logger("sharing")

_ECHOES: Final = 1_024
"""Messages of ours whose return is waited for, to measure the delay."""


_DELAY_WEIGHT: Final = 0.05
"""Weight of a new measurement in the mean delay."""


@dataclass(frozen=True, slots=True)
class SharingOptions:
    """How reserves are shared.

    Attributes:
        replica: Our name; no other that lives has it.
        epoch: Of our life: larger than that of any life before under the same name.
        channel: Where replicas of one fleet meet.
        share_s: Least time between two messages; what happens meanwhile goes into one.
        heartbeat_s: Longest silence; also how often silence of others is looked for.
        limits: Bounds.

    """

    replica: ReplicaId
    epoch: int
    channel: str = "headrace:reserves"
    share_s: float = 0.01
    heartbeat_s: float = 0.05
    limits: SharingLimits = field(default_factory=SharingLimits)


class Sharing(ReserveObserver):
    """Our side of the sharing. Works while ``run`` does; the router may call it all the time.

    Args:
        options: How.
        store: Through which.
        sink: Who takes others' reserves into account: our router.
        clock: The time.
        telemetry: Where to show staleness.
        applied: Called after reserves of others changed, as that may make room here.

    """

    def __init__(
        self,
        options: SharingOptions,
        store: Store,
        sink: ReserveSink,
        clock: Clock,
        telemetry: Telemetry,
        applied: Callable[[], None] = lambda: None,
    ) -> None:
        self._options = options
        self._store = store
        self._clock = clock
        self._applied = applied
        self._sink = sink
        self._outbox = Outbox(options.replica, options.epoch, options.limits)
        self._inbox = Inbox(options.replica, sink, options.limits)
        self._inbox.delay_s = options.share_s  # until it has been measured
        self._codec = Codec()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self._sent_s = float("-inf")
        self._echoes: OrderedDict[int, float] = OrderedDict()
        self._twin_known = False
        self._lag = telemetry.gauge("headrace_router_sharing_lag_seconds")
        self._delay = telemetry.histogram("headrace_router_sharing_delay_seconds").labels()
        self._messages = telemetry.counter("headrace_router_sharing_messages_total")

    # What our router tells.

    @override
    def on_dispatched(self, reserve: Reserve) -> None:
        self._outbox.dispatched(reserve)
        self._soon()

    @override
    def on_first_token(self, request_id: RequestId, now_s: float) -> None:
        self._outbox.first_token(request_id, now_s)
        self._soon()

    @override
    def on_released(self, request_id: RequestId, now_s: float) -> None:
        self._outbox.released(request_id, now_s)
        self._soon()

    # What others see and say.

    @property
    def peers(self) -> dict[ReplicaId, float]:
        """The other replicas heard of, and how many seconds ago each was."""
        return self._inbox.lags_s(self._clock.now_s())

    @property
    def synced(self) -> bool:
        """Whether nothing that others told is known to be missing."""
        return self._inbox.synced()

    async def run(self) -> None:
        """Share until cancelled; to be supervised."""
        self._store.subscribe(self._options.channel, self._deliver)
        self._running = True
        try:
            while True:
                self._beat()
                await self._clock.sleep(self._options.heartbeat_s)
        finally:
            self._running = False
            self._store.unsubscribe(self._options.channel, self._deliver)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._inbox.forget(self._clock.now_s())
            self._sink.late(0.0)

    def _beat(self) -> None:
        now_s = self._clock.now_s()
        for lost in self._inbox.tick(now_s):
            self._messages.labels("lost").inc()
            self._lag.forget(lost)
            _log.warning("replica_lost", replica=lost, after_s=self._options.limits.lost_after_s)
            self._applied()
        lags_s = self._inbox.lags_s(now_s)
        for replica, lag_s in lags_s.items():
            self._lag.labels(replica).set(lag_s)
        self._sink.late(self._inbox.late_s(self._options.share_s) if lags_s else 0.0)
        silent = now_s - self._sent_s >= self._options.heartbeat_s * 0.5
        if silent or self._outbox.due(now_s) or not self._inbox.synced():
            self._flush()

    def _soon(self) -> None:
        if self._timer is None and self._running and self._outbox.due(self._clock.now_s()):
            # at once after a pause, and no more often than every share_s in a rush
            wait_s = self._sent_s + self._options.share_s - self._clock.now_s()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, wait_s), self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = self._sent_s = self._clock.now_s()
        for message in self._outbox.flush(now_s, self._inbox.wants(now_s)):
            if message.deltas and not message.snapshot:
                self._echoes[message.seq] = now_s
                if len(self._echoes) > _ECHOES:
                    self._echoes.popitem(last=False)
            self._store.publish(self._options.channel, self._codec.encode(message))
            self._messages.labels("snapshot_sent" if message.snapshot else "sent").inc()

    def _deliver(self, payload: bytes) -> None:
        try:
            message = self._codec.decode(payload)
        except ValueError as error:
            self._messages.labels("malformed").inc()
            _log.debug("replica_message_malformed", problem=str(error))
            return
        if message is None:
            self._messages.labels("other_version").inc()
            return
        now_s = self._clock.now_s()
        heard = self._inbox.heard(message, now_s)
        self._messages.labels(heard).inc()
        if heard is Heard.OWN:
            self._came_back(message, now_s)
            return
        if self._options.replica in message.wants:
            self._outbox.snapshot_wanted()
            self._soon()
        if heard in {Heard.APPLIED, Heard.SNAPSHOT}:
            self._applied()

    def _came_back(self, message: Message, now_s: float) -> None:
        if message.epoch == self._options.epoch:
            sent_s = self._echoes.pop(message.seq, None) if message.deltas else None
            if sent_s is not None and not message.snapshot:
                self._delay.observe(now_s - sent_s)
                self._inbox.delay_s += _DELAY_WEIGHT * (now_s - sent_s - self._inbox.delay_s)
        elif not self._twin_known:
            self._twin_known = True
            _log.warning("replica_name_taken", replica=self._options.replica)


def open_sharing(
    settings: SharingSettings,
    address: str,
    router: Router,
    clock: Clock,
    telemetry: Telemetry,
    applied: Callable[[], None],
) -> Sequence[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
    """Return the tasks that share a router's reserves, by name; none without Redis.

    Args:
        settings: How.
        address: Where this gateway listens, which tells it from others on its host.
        router: Whose reserves; there must be none yet.
        clock: The time.
        telemetry: Where to show its state.
        applied: Called after reserves of others changed.

    Raises:
        ConfigError: if the URL is not one of Redis.

    """
    if settings.redis_url is None:
        return ()
    replica = ReplicaId(settings.replica or f"{socket.gethostname()}:{address}")
    store = RedisStore(
        RedisSettings(
            settings.redis_url.get_secret_value(),
            answer_s=settings.answer_s,
            retry_most_s=settings.retry_most_s,
        ),
        clock,
        telemetry,
        Random(replica),
    )
    options = SharingOptions(
        replica,
        epoch=time.time_ns(),  # the one clock that goes on over restarts
        channel=settings.channel,
        share_s=settings.share_ms / 1_000.0,
        heartbeat_s=settings.heartbeat_ms / 1_000.0,
        limits=SharingLimits(lost_after_s=settings.lost_after_s),
    )
    sharing = Sharing(options, store, router.others, clock, telemetry, applied)
    router.observed_by(sharing)
    return ("store", store.run), ("sharing", sharing.run)
