"""Publishes KV events over ZeroMQ with replay, as vLLM 0.32 does. Touches sockets.

A PUB socket carries ``[topic, seq, payload]``; a ROUTER socket answers ``[b"", start_seq]`` with
every buffered batch from there on, then with an end marker.
Source: vLLM 0.32.0, ``vllm/distributed/kv_events.py``, ``ZmqEventPublisher``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import zmq
import zmq.asyncio

from kvcache.events import REPLAY_END, EventBatch, decode_seq, encode_batch, encode_seq


@dataclass(frozen=True, slots=True)
class PublisherSettings:
    """Where and how to publish.

    Attributes:
        endpoint: The PUB socket's address.
        bind: Whether to bind it; None decides as vLLM does: ``ipc://`` and wildcard addresses
            (``tcp://*:5557``) are bound, as is port 0, other addresses are connected to.
        replay_endpoint: Always bound; None for no replay.
        topic: First frame of every message.
        buffer_steps: Batches kept for replay.
        hwm: Batches kept per subscriber that does not keep up; more are lost to it.

    """

    endpoint: str
    replay_endpoint: str | None = None
    topic: str = ""
    buffer_steps: int = 10_000
    hwm: int = 100_000
    bind: bool | None = None

    @property
    def binds(self) -> bool:
        """Whether the PUB socket is bound."""
        if self.bind is not None:
            return self.bind
        wild = "*" in self.endpoint or "::" in self.endpoint or self.endpoint.endswith(":0")
        return wild or self.endpoint.startswith(("ipc://", "inproc://"))


class EventPublisher:
    """Owns the two sockets of one engine and the buffer behind them.

    Use ``open``, publish from the event loop's thread, then ``close``. Sequence numbers start at 0
    with each object, as they do with each life of an engine.
    """

    def __init__(self, settings: PublisherSettings) -> None:
        self.settings = settings
        self.endpoint = settings.endpoint
        self.replay_endpoint = settings.replay_endpoint
        self._topic = settings.topic.encode()
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=settings.buffer_steps)
        self._next = 0
        self._held: tuple[int, bytes] | None = None
        self._context: zmq.asyncio.Context | None = None
        self._pub: zmq.Socket[bytes] | None = None
        self._replay: zmq.asyncio.Socket | None = None

    def open(self) -> None:
        """Bind or connect the sockets; the addresses in use are then in ``endpoint``.

        Raises:
            OSError: if an address is taken or malformed (``zmq.ZMQError`` is one).

        """
        self._context = zmq.asyncio.Context(io_threads=1)
        self._pub = zmq.Context(self._context).socket(zmq.PUB)
        self._pub.setsockopt(zmq.LINGER, 0)
        self._pub.setsockopt(zmq.SNDHWM, self.settings.hwm)
        try:
            if self.settings.binds:
                self._pub.bind(self.settings.endpoint)
                self.endpoint = self._pub.getsockopt_string(zmq.LAST_ENDPOINT)
            else:
                self._pub.connect(self.settings.endpoint)
            if self.settings.replay_endpoint is not None:
                self._replay = self._context.socket(zmq.ROUTER)
                self._replay.setsockopt(zmq.LINGER, 0)
                self._replay.setsockopt(zmq.SNDHWM, self.settings.buffer_steps + 1)
                self._replay.bind(self.settings.replay_endpoint)
                self.replay_endpoint = self._replay.getsockopt_string(zmq.LAST_ENDPOINT)
        except zmq.ZMQError:
            self.close()
            raise

    def publish(self, batch: EventBatch, *, drop: bool = False, hold: bool = False) -> int:
        """Send a batch; return its sequence number.

        Args:
            batch: What one step did.
            drop: Lose it on the way: it is only in the replay buffer.
            hold: Send it after the next one, out of order.

        """
        seq, self._next = self._next, self._next + 1
        payload = encode_batch(batch)
        self._buffer.append((seq, payload))
        if drop:
            return seq
        if hold and self._held is None:
            self._held = (seq, payload)
            return seq
        self._send(seq, payload)
        if self._held is not None:
            held, self._held = self._held, None
            self._send(*held)
        return seq

    def _send(self, seq: int, payload: bytes) -> None:
        assert self._pub is not None, "the publisher is not open"
        self._pub.send_multipart((self._topic, encode_seq(seq), payload), zmq.DONTWAIT)

    async def serve_replays(self) -> None:
        """Answer replay requests until cancelled; one at a time, as vLLM does."""
        replay = self._replay
        if replay is None:
            return
        while True:
            frames = await replay.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                continue  # vLLM logs it and goes on; the sender gets no answer
            client, _, wanted = frames
            start = decode_seq(wanted)
            for seq, payload in list(self._buffer):
                if seq >= start:
                    head = (client, b"", self._topic)
                    await replay.send_multipart((*head, encode_seq(seq), payload))
            await replay.send_multipart((client, b"", b"", REPLAY_END, b""))

    def close(self) -> None:
        """Close the sockets; what has not left yet is lost."""
        if self._pub is not None:
            self._pub.close(linger=0)
        if self._replay is not None:
            self._replay.close(linger=0)
        if self._context is not None:
            self._context.destroy(linger=0)
        self._pub = self._replay = self._context = None
