"""What gateway replicas share quickly: small messages and values that expire.

``MemoryStore`` is here; ``store_redis`` has the one for several machines. Uses the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from typing_extensions import override

from headrace.core.clock import Clock
from headrace.core.errors import StoreError

MAX_KEYS: Final = 10_000
"""Values that one hub holds at once."""

Deliver = Callable[[bytes], None]
"""Takes one message, on the event loop's thread; must not raise or wait."""


class Store(Protocol):
    """Messages to whoever listens now, and values that expire.

    A message is delivered at most once to each subscriber, the sender's own included, in the order
    of each sender. Nothing is kept for those who come later.
    """

    @property
    def up(self) -> bool:
        """Whether it can be reached as far as is known."""
        ...

    def publish(self, channel: str, payload: bytes) -> None:
        """Send a message. Neither waits nor raises: what cannot be sent is dropped and counted."""
        ...

    def subscribe(self, channel: str, deliver: Deliver) -> None:
        """Have ``deliver`` called with each message of ``channel``, once ``ready`` returns."""
        ...

    def unsubscribe(self, channel: str, deliver: Deliver) -> None:
        """Stop calling ``deliver``; harmless if it was not subscribed."""
        ...

    async def ready(self) -> None:
        """Wait until the store is up and every subscription made so far is in force."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Return the value of ``key``, or None when it has none or it expired.

        Raises:
            StoreError: if the store does not answer in time.

        """
        ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Give ``key`` a value for ``ttl_s`` > 0 seconds; the last one to set it wins.

        Raises:
            StoreError: if the store does not answer in time, or is full.

        """
        ...

    async def scan(self, prefix: str, limit: int) -> list[str]:
        """Return up to ``limit`` keys that begin with ``prefix``, in no order.

        Raises:
            StoreError: if the store does not answer in time.

        """
        ...

    async def run(self) -> None:
        """Keep the connection, for ever; to be supervised, and cancelled at the end."""
        ...


class MemoryHub:
    """What the memory stores of one process share. Belongs to one event loop."""

    def __init__(self, clock: Clock, *, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._subscribers: dict[str, list[Deliver]] = {}
        self._values: dict[str, tuple[bytes, float]] = {}  # value, when it expires

    def publish(self, channel: str, payload: bytes) -> None:
        """Deliver to all who listen, from the event loop and not from within this call."""
        loop = asyncio.get_running_loop()
        for deliver in self._subscribers.get(channel, ()):
            loop.call_soon(self._deliver, channel, deliver, payload)

    def _deliver(self, channel: str, deliver: Deliver, payload: bytes) -> None:
        if deliver in self._subscribers.get(channel, ()):  # it may have left meanwhile
            deliver(payload)

    def subscribe(self, channel: str, deliver: Deliver) -> None:
        """Add a listener."""
        self._subscribers.setdefault(channel, []).append(deliver)

    def unsubscribe(self, channel: str, deliver: Deliver) -> None:
        """Take a listener out."""
        listening = self._subscribers.get(channel, [])
        if deliver in listening:
            listening.remove(deliver)
        if not listening:
            self._subscribers.pop(channel, None)

    def get(self, key: str) -> bytes | None:
        """Return a value that has not expired."""
        found = self._values.get(key)
        return None if found is None or found[1] <= self._clock.now_s() else found[0]

    def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value; StoreError when full of values that have not expired."""
        now_s = self._clock.now_s()
        if key not in self._values and len(self._values) >= self._max_keys:
            self._values = {k: v for k, v in self._values.items() if v[1] > now_s}
            if len(self._values) >= self._max_keys:
                raise StoreError(f"the memory store holds {self._max_keys} keys already")
        self._values[key] = (value, now_s + ttl_s)

    def alive(self) -> list[str]:
        """Return the keys whose values have not expired."""
        now_s = self._clock.now_s()
        return [key for key, (_, until_s) in self._values.items() if until_s > now_s]


class MemoryStore(Store):
    """One client of a hub: for replicas in one process, and for tests."""

    def __init__(self, hub: MemoryHub) -> None:
        self._hub = hub

    @property
    @override
    def up(self) -> bool:
        return True

    @override
    def publish(self, channel: str, payload: bytes) -> None:
        self._hub.publish(channel, payload)

    @override
    def subscribe(self, channel: str, deliver: Deliver) -> None:
        self._hub.subscribe(channel, deliver)

    @override
    def unsubscribe(self, channel: str, deliver: Deliver) -> None:
        self._hub.unsubscribe(channel, deliver)

    @override
    async def ready(self) -> None:
        return

    @override
    async def get(self, key: str) -> bytes | None:
        return self._hub.get(key)

    @override
    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        self._hub.set(key, value, ttl_s)

    @override
    async def scan(self, prefix: str, limit: int) -> list[str]:
        return [key for key in self._hub.alive() if key.startswith(prefix)][:limit]

    @override
    async def run(self) -> None:
        await asyncio.Event().wait()
