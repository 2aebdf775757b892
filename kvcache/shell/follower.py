"""Follows one engine's KV events over ZeroMQ. Touches sockets.

A SUB socket for what is published and, while a replay is under way, a DEALER socket for that; what
to make of the batches is decided by ``kvcache.stream``.
Source: vLLM 0.32.0, ``vllm/distributed/kv_events.py``, ``ZmqEventPublisher``, for the frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from headrace.core.clock import Clock
from headrace.core.endpoint import KvEventSource
from headrace.core.ids import EndpointId
from headrace.service.log import get_logger
from kvcache.changes import Change, IndexSink, deliver
from kvcache.events import REPLAY_END, MalformedEvents, decode_seq, encode_seq
from kvcache.scheme import NO_GUESSES, Guesses
from kvcache.stream import EventStream, Position, StreamCounters, StreamLimits, StreamState

_log = get_logger("kv_events")

_MONITORED: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


@dataclass(frozen=True, slots=True)
class SubscriberSettings:
    """Bounds and times of the connections to engines.

    Attributes:
        replay_timeout_s: A replay that brings nothing for so long is given up.
        replay_limit_s: A replay is given up after so long in all.
        check_up_s: Seconds between questions whether a batch was lost with none behind it.
        settle_s: The first such question, after a connection: batches published before our
            subscription has reached the engine are lost to it.
        lost_after_s: An engine not reconnected for so long has lost its blocks, for all we know.
        reconnect_s: Least and most seconds between attempts to connect.
        heartbeat_s: Seconds between pings; three unanswered ones are a lost connection.
        hwm: Messages kept per socket until they are read; more are lost.
        message_bytes: Largest message accepted.
        turn_messages: Messages taken before others get their turn.
        limit_endpoints: Engines followed at once.
        stream: Bounds of each stream.
        guesses: What engines' block schemes may be.

    """

    replay_timeout_s: float = 3.0
    replay_limit_s: float = 60.0
    check_up_s: float = 10.0
    settle_s: float = 0.5
    lost_after_s: float = 0.5
    reconnect_s: tuple[float, float] = (0.1, 2.0)
    heartbeat_s: float = 1.0
    hwm: int = 100_000
    message_bytes: int = 64 * 2**20
    turn_messages: int = 64
    limit_endpoints: int = 1_024
    stream: StreamLimits = field(default_factory=StreamLimits)
    guesses: Guesses = NO_GUESSES


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """How one endpoint's events are followed.

    Attributes:
        connected: Whether its socket is.
        state: Whether the index follows it.
        counters: Totals.
        heard_s: When its last batch came, on our clock, or None.
        engine_s: Unix time at the engine of the last batch applied.
        position: That batch, for an ``EventStream`` that resumes.

    """

    connected: bool
    state: StreamState
    counters: StreamCounters
    heard_s: float | None
    engine_s: float
    position: Position | None


class Follower:
    """Owns the sockets of one engine while ``run`` runs. The stream outlives a failed run.

    Args:
        endpoint: Whose events.
        source: Where they are published.
        stream: What to make of them.
        sink: Is handed the changes.
        settings: Bounds.
        clock: The time.

    """

    def __init__(
        self,
        endpoint: EndpointId,
        source: KvEventSource,
        stream: EventStream,
        sink: IndexSink,
        settings: SubscriberSettings,
        clock: Clock,
    ) -> None:
        self.source = source
        self._endpoint = endpoint
        self._stream = stream
        self._sink = sink
        self._settings = settings
        self._clock = clock
        self.connected = False
        self._failed = False
        self._lost_s: float | None = None  # when to take the engine to be gone
        self._check_up_s = clock.now_s() + settings.check_up_s
        self._replay: _Replaying | None = None
        self._told = (0, 0, 0, 0)

    def status(self) -> StreamStatus:
        """Return how the engine is followed."""
        stream = self._stream
        return StreamStatus(
            self.connected,
            stream.state,
            replace(stream.counters),
            stream.heard_s,
            stream.engine_s,
            stream.position,
        )

    async def run(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Follow until cancelled.

        Raises:
            zmq.ZMQError: if an address cannot be used.

        """
        if self._failed:  # in the middle of a change, perhaps
            self._deliver(self._stream.lost())
        self._failed = True
        wake = asyncio.Event()
        settings = self._settings
        with ExitStack() as stack:
            sub = stack.enter_context(closing(Port(context.socket(zmq.SUB), wake)))
            monitor = stack.enter_context(closing(sub.monitor(wake)))
            sub.connect(self.source.events, settings, topic=self.source.topic)
            stack.callback(self._end_replay)
            while True:
                wake.clear()
                self._keep_time()
                self._begin_replay(context, wake)
                read = self._read_replay() + self._read_live(sub, monitor)
                if read:
                    await asyncio.sleep(0)  # others get their turn
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._due_s() - self._clock.now_s())):
                        await wake.wait()

    def _read_live(self, sub: Port, monitor: Port) -> int:
        for count in range(self._settings.turn_messages):
            frames = sub.receive()
            # What a connection brings comes after the news of it: the news is looked at first.
            self._read_monitor(monitor)
            if frames is None:
                return count
            try:
                _, seq, payload = frames
                changes = self._stream.live(decode_seq(seq), payload, self._clock.now_s())
            except (ValueError, MalformedEvents):
                self._stream.counters.malformed += 1
                continue
            self._deliver(changes)
        return self._settings.turn_messages

    def _read_monitor(self, monitor: Port) -> None:
        while (frames := monitor.receive()) is not None:
            now_s = self._clock.now_s()
            if parse_monitor_message(frames)["event"] == zmq.EVENT_DISCONNECTED:
                self.connected = False
                self._lost_s = now_s + self._settings.lost_after_s
            else:
                self.connected = True
                self._lost_s = None
                self._check_up_s = now_s + self._settings.settle_s
                self._deliver(self._stream.connected())

    def _keep_time(self) -> None:
        now_s = self._clock.now_s()
        if self._lost_s is not None and now_s >= self._lost_s:
            self._lost_s = None
            self._deliver(self._stream.lost())
        if now_s >= self._check_up_s:
            later = self._stream.state is StreamState.REPLAYING  # it would not be asked now
            settings = self._settings
            self._check_up_s = now_s + (settings.settle_s if later else settings.check_up_s)
            if self.connected:
                self._deliver(self._stream.check_up())
        if self._replay is not None and now_s >= self._replay.due_s:
            self._deliver(self._stream.replay_failed(self._replay.number))

    def _due_s(self) -> float:
        due_s = self._check_up_s
        if self._lost_s is not None:
            due_s = min(due_s, self._lost_s)
        if self._replay is not None:
            due_s = min(due_s, self._replay.due_s)
        return due_s

    def _begin_replay(self, context: zmq.Context[zmq.Socket[bytes]], wake: asyncio.Event) -> None:
        wanted = self._stream.take_request()
        if wanted is None:
            if self._stream.state is StreamState.SYNCED:
                self._end_replay()
            return
        self._end_replay()
        assert self.source.replay is not None
        port = Port(context.socket(zmq.DEALER), wake)
        self._replay = _Replaying(wanted.number, port, self._clock.now_s(), self._settings)
        port.connect(self.source.replay, self._settings)
        port.send(b"", encode_seq(wanted.start_seq))

    def _read_replay(self) -> int:
        for count in range(self._settings.turn_messages):
            replay = self._replay
            frames = None if replay is None else replay.port.receive()
            if replay is None or frames is None:
                return count
            now_s = self._clock.now_s()
            replay.heard(now_s)
            try:
                _, _, seq, payload = frames
                if seq == REPLAY_END:
                    changes = self._stream.replay_ended(replay.number)
                else:
                    changes = self._stream.replayed(replay.number, decode_seq(seq), payload, now_s)
            except (ValueError, MalformedEvents):
                changes = self._stream.replay_failed(replay.number)
            self._deliver(changes)
        return self._settings.turn_messages

    def _end_replay(self) -> None:
        replay, self._replay = self._replay, None
        if replay is not None:
            replay.port.close()

    def _deliver(self, changes: Sequence[Change]) -> None:
        deliver(self._endpoint, changes, self._sink)
        counters = self._stream.counters
        told = (
            counters.resyncs,
            counters.restarts,
            counters.failed_replays,
            counters.malformed,
        )
        if told != self._told:
            self._told = told
            names = ("resyncs", "restarts", "failed_replays", "malformed")
            totals = dict(zip(names, told, strict=True))
            _log.warning("kv_events_lost", endpoint=self._endpoint, **totals)


class _Replaying:
    """A replay under way and how long it may take."""

    def __init__(self, number: int, port: Port, now_s: float, settings: SubscriberSettings) -> None:
        self.number = number
        self.port = port
        self._timeout_s = settings.replay_timeout_s
        self._end_s = now_s + settings.replay_limit_s
        self.heard(now_s)

    def heard(self, now_s: float) -> None:
        """Allow it some more time."""
        self.due_s = min(self._end_s, now_s + self._timeout_s)


class Port:
    """A ZeroMQ socket that sets an event when there may be something to receive.

    Whoever waits for the event first receives until there is nothing more: the descriptor tells
    of news only once (zmq_getsockopt, ``ZMQ_FD``).
    """

    def __init__(self, socket: zmq.Socket[bytes], wake: asyncio.Event) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, wake.set)

    def connect(self, address: str, settings: SubscriberSettings, topic: str | None = None) -> None:
        """Set the bounds and connect, again and again where nobody answers."""
        socket = self._socket
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, settings.hwm)
        socket.setsockopt(zmq.MAXMSGSIZE, settings.message_bytes)
        socket.setsockopt(zmq.RECONNECT_IVL, round(1e3 * settings.reconnect_s[0]))
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, round(1e3 * settings.reconnect_s[1]))
        socket.setsockopt(zmq.HEARTBEAT_IVL, round(1e3 * settings.heartbeat_s))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, round(3e3 * settings.heartbeat_s))
        if topic is not None:
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        socket.connect(address)

    def monitor(self, wake: asyncio.Event) -> Port:
        """Return a port that tells of connections made and lost."""
        return Port(self._socket.get_monitor_socket(_MONITORED), wake)

    def receive(self) -> list[bytes] | None:
        """Return the next message, or None."""
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def send(self, *frames: bytes) -> None:
        """Send a message; it waits in the socket until the other side is there."""
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def close(self) -> None:
        """Close the socket at once."""
        self._loop.remove_reader(self._fd)
        self._socket.close(linger=0)
