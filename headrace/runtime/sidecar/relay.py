"""Passes an engine's KV events on, frame by frame, with its own replay buffer. Touches sockets.

Gateways then connect to the sidecar only, however many they are, and the engine serves one
subscriber. Nothing in a batch is read: only its sequence number, which stays what it was.

Source of the protocol: vLLM 0.32.0, ``vllm/distributed/kv_events.py``: ``[topic, seq, payload]`` on
a PUB socket; ``[b"", start]`` asks a ROUTER socket for all batches from there, which come as
``[b"", topic, seq, payload]`` and end with a sequence number of -1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import zmq
import zmq.asyncio

from headrace.core.errors import ConfigError
from headrace.runtime.config import KvEventAddresses
from headrace.runtime.sidecar.config import RelaySettings
from headrace.service.log import get_logger
from headrace.service.telemetry import Telemetry

_log = get_logger("relay")

SEQ_BYTES: Final = 8
REPLAY_END: Final = (-1).to_bytes(SEQ_BYTES, "big", signed=True)

Batch = tuple[bytes, int, bytes]
"""Topic, sequence number, payload."""


class Relay:
    """The relay of one engine; ``open`` it, then run ``follow`` and ``serve_replays``."""

    def __init__(
        self, engine: KvEventAddresses, settings: RelaySettings, telemetry: Telemetry
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._telemetry = telemetry
        self._buffer: deque[Batch] = deque(maxlen=settings.batches)
        self._next: int | None = None
        self._context = zmq.asyncio.Context(io_threads=1)
        self._sub = self._context.socket(zmq.SUB)
        self._pub = self._context.socket(zmq.PUB)
        self._replay = self._context.socket(zmq.ROUTER)
        self.events = settings.events
        self.replay = settings.replay

    def open(self) -> None:
        """Connect and bind; the addresses in use are then in ``events`` and ``replay``.

        Raises:
            ConfigError: if an address is taken or malformed.

        """
        limits = self._settings
        self._sub.setsockopt(zmq.RCVHWM, limits.subscriber_batches)
        self._sub.setsockopt_string(zmq.SUBSCRIBE, self._engine.topic)
        self._pub.setsockopt(zmq.SNDHWM, limits.subscriber_batches)
        self._replay.setsockopt(zmq.SNDHWM, limits.batches + 1)
        try:
            self._sub.connect(self._engine.events)
            self._pub.bind(limits.events)
            self._replay.bind(limits.replay)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(f"kv_relay: {error}") from None
        self.events = self._pub.getsockopt_string(zmq.LAST_ENDPOINT)
        self.replay = self._replay.getsockopt_string(zmq.LAST_ENDPOINT)

    async def follow(self) -> None:
        """Pass on what comes until cancelled, beginning with what came before us."""
        if self._next is None:
            await self._repair(0, None)
        while True:
            frames = await self._sub.recv_multipart()
            if len(frames) != 3 or len(frames[1]) != SEQ_BYTES:
                continue
            topic, raw, payload = frames
            await self._got((topic, int.from_bytes(raw, "big", signed=True), payload))

    async def serve_replays(self) -> None:
        """Answer those who have missed batches until cancelled, one at a time."""
        while True:
            frames = await self._replay.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != SEQ_BYTES:
                continue
            client, _, wanted = frames
            start = int.from_bytes(wanted, "big", signed=True)
            for topic, seq, payload in list(self._buffer):
                if seq >= start:
                    await self._replay.send_multipart(
                        (client, b"", topic, seq.to_bytes(SEQ_BYTES, "big"), payload)
                    )
            await self._replay.send_multipart((client, b"", b"", REPLAY_END, b""))

    def close(self) -> None:
        """Close the sockets; what has not left yet is lost."""
        self._context.destroy(linger=0)

    async def _got(self, batch: Batch) -> None:
        """Pass on a batch, after those before it.

        A number that is too low and was not passed on yet is one of another life of the engine.
        """
        seq = batch[1]
        if self._next is not None and seq < self._next:
            if batch in self._buffer:
                return  # it came by replay already
            self._begin_anew(seq)
        if self._next is None and seq > 0:
            await self._repair(0, seq)
        elif self._next is not None and seq > self._next:
            await self._repair(self._next, seq)
        await self._pass_on(batch, "live")

    def _begin_anew(self, seq: int) -> None:
        _log.info("engine_restarted", seq=seq, expected=self._next)
        self._buffer.clear()
        self._next = None

    async def _pass_on(self, batch: Batch, kind: str) -> None:
        topic, seq, payload = batch
        self._buffer.append(batch)
        self._next = seq + 1
        await self._pub.send_multipart((topic, seq.to_bytes(SEQ_BYTES, "big"), payload))
        self._telemetry.counter("headrace_kv_relay_batches_total").labels(kind).inc()

    async def _repair(self, start: int, stop: int | None) -> None:
        """Ask the engine for the batches from ``start`` up to ``stop``, and pass them on.

        What it does not have stays a hole: whoever follows us sees it by the numbers.
        """
        if self._engine.replay is not None:
            asking = self._context.socket(zmq.DEALER)
            try:
                asking.connect(self._engine.replay)
                async with asyncio.timeout(self._settings.replay_s):
                    await asking.send_multipart((b"", (0).to_bytes(SEQ_BYTES, "big")))
                    await self._take(asking, stop)
            except TimeoutError:
                _log.warning("replay_unanswered", start=start)
            finally:
                asking.close(linger=0)
        if stop is not None and (self._next or 0) < stop:
            self._telemetry.counter("headrace_kv_relay_gaps_total").labels().inc()

    async def _take(self, asking: zmq.asyncio.Socket, stop: int | None) -> None:
        """Pass on what is new of a replay of all that the engine has.

        All of it is asked for, since a batch that we have passed on and that reads otherwise now
        shows that the engine was restarted, which the numbers alone may hide.
        """
        known = {batch[1]: batch for batch in self._buffer}
        while True:
            _, topic, raw, payload = await asking.recv_multipart()
            batch = (topic, int.from_bytes(raw, "big", signed=True), payload)
            if batch[1] < 0:
                return
            if known.get(batch[1], batch) != batch:
                self._begin_anew(batch[1])
                known.clear()
            fresh = self._next is None or batch[1] >= self._next
            if fresh and (stop is None or batch[1] < stop):
                await self._pass_on(batch, "repaired")
