"""Several production routers over one simulated fleet, and the messages between them. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final

from typing_extensions import override

from headrace.core.endpoint import BlockScheme, EndpointView, EngineLoad
from headrace.core.ids import EndpointId, RequestId
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.twin.placement import (
    After,
    BlocksChanged,
    CallBack,
    EngineTruth,
    Placed,
    Placement,
    SelfTimed,
)
from headrace.twin.production import ProductionRouter
from router.catalog import DEFAULT_POLICY
from router.replica_wire import Codec, Message
from router.replicas import Inbox, Outbox, SharingLimits
from router.reserve import ReplicaId, Reserve, ReserveObserver

SHARE_S: Final = 0.01
"""Least time between two messages of a replica, as is the default."""

HEARTBEAT_S: Final = 0.05
"""Longest until a replica that starts hears from each of the others, as is the default."""

TICK_S: Final = 0.02
"""How often a replica that holds requests looks whether time alone has made room for one."""

REPLAY_STEPS: Final = 10_000
"""Batches of KV events that an engine sends again to who asks, as is vLLM's default."""


@dataclass(frozen=True, slots=True)
class Crash:
    """The first replica ends at ``at_s``, with all it knew, and another takes its place."""

    at_s: float
    down_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Setup:
    """How many replicas there are and what they know of each other.

    Attributes:
        count: Replicas.
        shared: Whether they tell each other of their reserves.
        kv_events: Whether they follow the engines' KV events, or estimate.
        delay_s: From sending a message until it is applied.
        seed: Of their ties, and of which request comes to which.
        crash: What happens to the first one, if anything.

    """

    count: int
    shared: bool = True
    kv_events: bool = True
    delay_s: float = 0.02
    seed: int = 1
    crash: Crash | None = None


class _Replica(ReserveObserver):
    """One gateway's router and its side of the sharing."""

    def __init__(self, setup: Setup, number: int, epoch: int, send: Callable[[_Replica], None]):
        self.name = ReplicaId(f"gateway-{number}")
        limits = SharingLimits()
        self.outbox = Outbox(self.name, epoch, limits)
        self.placement = ProductionRouter(
            DEFAULT_POLICY,
            setup.seed * 100 + number,
            kv_events=setup.kv_events,
            observer=self if setup.shared else None,
        )
        self.inbox = Inbox(self.name, self.placement.router.others, limits)
        self.inbox.delay_s = setup.delay_s
        if setup.shared and setup.count > 1:
            self.placement.router.others.late(self.inbox.late_s(SHARE_S))
        self.waiting: dict[RequestId, RouteRequest] = {}
        self.alive = True
        self.timed = False
        self.looking = False
        self.sent_s = float("-inf")
        self._send = send

    @override
    def on_dispatched(self, reserve: Reserve) -> None:
        self.outbox.dispatched(reserve)
        self._send(self)

    @override
    def on_first_token(self, request_id: RequestId, now_s: float) -> None:
        self.outbox.first_token(request_id, now_s)
        self._send(self)

    @override
    def on_released(self, request_id: RequestId, now_s: float) -> None:
        self.outbox.released(request_id, now_s)
        self._send(self)

    def sent(self, placed: Sequence[Placed]) -> Sequence[Placed]:
        """Note that requests wait no more."""
        for one in placed:
            self.waiting.pop(one.request.request_id, None)
        return placed


class Replicas(Placement, SelfTimed):
    """Requests come to any of the replicas by chance; each places its own."""

    scrape_s: float | None = ProductionRouter.scrape_s

    def __init__(self, setup: Setup) -> None:
        self.kv_events = setup.kv_events
        self.messages = self.message_bytes = 0
        self.came_to: dict[RequestId, int] = {}
        self._setup = setup
        self._codec = Codec()
        self._owner: dict[RequestId, _Replica] = {}
        self._replicas = [_Replica(setup, n, 1, self._soon) for n in range(setup.count)]
        self._past: dict[EndpointId, deque[BlocksChanged]] = {}
        self._begin: Callable[[Placement], None] = lambda _: None
        self._after: After = lambda _delay_s, _action: None
        self._call_back: CallBack = lambda _: None
        self.called_back = 0

    @override
    def timed(self, after: After, call_back: CallBack) -> None:
        self._after = after
        self._call_back = call_back

    @override
    def begin(
        self,
        views: Sequence[EndpointView],
        scheme: BlockScheme,
        truth: Callable[[EndpointId], EngineTruth],
    ) -> None:
        self._begin = lambda placement: placement.begin(views, scheme, truth)
        self._past = {view.endpoint_id: deque(maxlen=REPLAY_STEPS) for view in views}
        for replica in self._replicas:
            self._begin(replica.placement)
        crash = self._setup.crash
        if crash is not None:
            self._after(crash.at_s, self._end_first)
            self._after(crash.at_s + crash.down_s, self._restart_first)

    @override
    def submit(self, request: RouteRequest, now_s: float) -> Sequence[Placed]:
        chance = Random(f"{self._setup.seed}/{request.request_id}")
        number = chance.randrange(len(self._replicas))
        if not self._replicas[number].alive:  # a load balancer would not send it there
            number = 1 + chance.randrange(len(self._replicas) - 1)
        self.came_to[request.request_id] = number
        return self._submit(self._replicas[number], request, now_s)

    def _submit(self, replica: _Replica, request: RouteRequest, now_s: float) -> Sequence[Placed]:
        self._owner[request.request_id] = replica
        replica.waiting[request.request_id] = request
        placed = replica.sent(replica.placement.submit(request, now_s))
        self._look_again(replica)
        return placed

    def _look_again(self, replica: _Replica) -> None:
        if replica.waiting and not replica.looking:
            replica.looking = True
            self._after(TICK_S, partial(self._look, replica))

    def _look(self, replica: _Replica, now_s: float) -> Sequence[Placed]:
        replica.looking = False
        placed = replica.sent(replica.placement.pump(now_s))
        self._look_again(replica)
        return placed

    @override
    def first_token(self, request_id: RequestId, now_s: float) -> Sequence[Placed]:
        replica = self._owner[request_id]
        return replica.sent(replica.placement.first_token(request_id, now_s))

    @override
    def ended(self, request_id: RequestId, usage: Usage, now_s: float) -> Sequence[Placed]:
        replica = self._owner.pop(request_id)
        return replica.sent(replica.placement.ended(request_id, usage, now_s))

    @override
    def changed(self, endpoint_id: EndpointId, change: BlocksChanged, now_s: float) -> None:
        self._past[endpoint_id].append(change)
        for replica in self._replicas:
            replica.placement.changed(endpoint_id, change, now_s)

    @override
    def reported(self, endpoint_id: EndpointId, load: EngineLoad, now_s: float) -> Sequence[Placed]:
        return [
            placed
            for replica in self._replicas
            for placed in replica.sent(replica.placement.reported(endpoint_id, load, now_s))
        ]

    @override
    def check(self) -> None:
        for replica in self._replicas:
            replica.placement.check()
            assert replica.outbox.inflight == 0 or not self._setup.shared

    # What replicas tell each other.

    def _soon(self, replica: _Replica) -> None:
        if replica.alive and not replica.timed:
            replica.timed = True
            self._after(0.0, partial(self._flush, replica))

    def _flush(self, replica: _Replica, now_s: float) -> Sequence[Placed]:
        replica.timed = False
        if not replica.alive:
            return ()
        wait_s = replica.sent_s + SHARE_S - now_s
        if wait_s > 1e-6:  # a timer has whole nanoseconds
            replica.timed = True
            self._after(wait_s, partial(self._flush, replica))
            return ()
        replica.sent_s = now_s
        for message in replica.outbox.flush(now_s, replica.inbox.wants(now_s)):
            payload = self._codec.encode(message)
            told = self._codec.decode(payload)
            assert told is not None
            self.messages += 1
            self.message_bytes += len(payload)
            self._after(self._setup.delay_s, partial(self._heard, told))
        return ()

    def _heard(self, message: Message, now_s: float) -> Sequence[Placed]:
        placed: list[Placed] = []
        for replica in self._replicas:
            if replica.alive and replica.name != message.sender:
                replica.inbox.heard(message, now_s)
                if replica.name in message.wants:
                    replica.outbox.snapshot_wanted()
                if not replica.inbox.synced() or replica.outbox.due(now_s):
                    self._soon(replica)
                placed += self._news(replica, now_s)
        return placed

    def _news(self, replica: _Replica, now_s: float) -> Sequence[Placed]:
        def call_back(request: RouteRequest) -> None:
            self.called_back += 1
            replica.waiting[request.request_id] = request
            self._call_back(request.request_id)

        placed = replica.sent(replica.placement.call_back(now_s, call_back))
        self._look_again(replica)
        return placed

    # A replica's end and its successor's beginning.

    def _end_first(self, now_s: float) -> Sequence[Placed]:
        dead = self._replicas[0]
        dead.alive = False
        placed: list[Placed] = []
        for request in list(dead.waiting.values()):  # their clients try again
            assert dead.placement.router.withdraw(request.request_id)
            placed += self._submit(self._replicas[1], request, now_s)
        return placed

    def _restart_first(self, now_s: float) -> Sequence[Placed]:
        reborn = self._replicas[0] = _Replica(self._setup, 0, 2, self._soon)
        self._begin(reborn.placement)
        for endpoint_id, changes in self._past.items():
            for change in changes:
                reborn.placement.changed(endpoint_id, change, now_s)
        for other in self._replicas:
            self._after(HEARTBEAT_S, partial(self._flush, other))
        return ()
