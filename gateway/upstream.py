"""The client for engines: HTTP/1.1 over a bounded pool of kept connections. Opens sockets.

A reply is handed over piece by piece from where the event loop delivers it, with no task in
between. Every wait has a limit; one sweep over the busy connections enforces them all, instead of
a timer per request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from gateway.config import UpstreamSettings
from gateway.connection import Connection
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView
from headrace.core.errors import EngineUnreachable, NoEndpoint
from headrace.core.ids import EndpointId
from headrace.runtime.client import DP_RANK_HEADER
from headrace.service.telemetry import Telemetry

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Pool:
    """The connections to one endpoint."""

    def __init__(
        self, url: str, settings: UpstreamSettings, clock: Clock, busy: dict[Connection, None]
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self._host = parts.hostname or ""
        self._port = parts.port or DEFAULT_PORTS.get(parts.scheme, 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._netloc = parts.netloc.rpartition("@")[2]
        self._prefix = parts.path.rstrip("/")
        self._settings = settings
        self._clock = clock
        self._idle: deque[Connection] = deque()
        self._busy = busy
        self._opening = 0
        self._heads: dict[str, bytes] = {}
        self.opened = 0
        self.closing = False

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    @property
    def open(self) -> int:
        """How many connections there are, those being opened included."""
        return self.opened + self._opening

    def head(self, path: str) -> bytes:
        """Return the part of a request's head that never changes; ``path`` is one of few."""
        head = self._heads.get(path)
        if head is None:
            key = self._settings.key
            secret = "" if key is None else f"Authorization: Bearer {key.get_secret_value()}\r\n"
            head = self._heads[path] = (
                f"POST {self._prefix}{path} HTTP/1.1\r\nHost: {self._netloc}\r\n"
                f"Content-Type: application/json\r\n{secret}"
            ).encode("latin-1")
        return head

    def take(self) -> Connection | None:
        """Return a kept connection, the most recently used, or None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return None

    async def connect(self) -> Connection:
        """Open a connection.

        Raises:
            NoEndpoint: if there are as many as there may be.
            EngineUnreachable: if the endpoint does not accept within the limit.

        """
        if self.open >= self._settings.connections_per_endpoint:
            raise NoEndpoint("no connection to an engine is free")
        loop = asyncio.get_running_loop()
        self._opening += 1
        try:
            async with asyncio.timeout(self._settings.connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self, self._settings.head_bytes),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except (OSError, TimeoutError):
            raise EngineUnreachable("an engine could not be reached") from None
        finally:
            self._opening -= 1
        return connection

    def made(self, _connection: Connection) -> None:
        """Count a connection just made."""
        self.opened += 1

    def lost(self, connection: Connection) -> None:
        """Count a connection that closed."""
        self.opened -= 1
        self._busy.pop(connection, None)
        if not connection.in_use and connection in self._idle:
            self._idle.remove(connection)

    def started(self, connection: Connection) -> None:
        """Note that ``connection`` carries a request; its limits are watched from now on."""
        self._busy[connection] = None

    def finished(self, connection: Connection) -> None:
        """Take back a connection that can carry another request."""
        self._busy.pop(connection, None)
        if self.closing:
            connection.abort()
        else:
            connection.since_s = self._clock.now_s()
            self._idle.append(connection)

    def close_idle(self, before_s: float) -> None:
        """Close the connections idle since before ``before_s``, oldest first."""
        while self._idle and self._idle[0].since_s < before_s:
            self._idle.popleft().abort()


class Upstream:
    """Every pool, one per endpoint URL. One per gateway; ``sweep`` must be run beside it."""

    def __init__(self, settings: UpstreamSettings, clock: Clock, telemetry: Telemetry) -> None:
        self._settings = settings
        self._clock = clock
        self._pools: dict[str, Pool] = {}
        self._busy: dict[Connection, None] = {}
        gauge = telemetry.gauge("headrace_upstream_connections")
        self._busy_gauge, self._idle_gauge = gauge.labels("busy"), gauge.labels("idle")
        connects = telemetry.counter("headrace_upstream_connects_total")
        self._connected, self._unreachable = connects.labels("ok"), connects.labels("failed")

    async def connection(self, view: EndpointView) -> Connection:
        """Return a connection to ``view``, a kept one if there is one.

        Raises:
            NoEndpoint: if the pool is at its limit.
            EngineUnreachable: if none could be made.

        """
        pool = self.pool(view)
        connection = pool.take()
        if connection is not None:
            return connection
        try:
            connection = await pool.connect()
        except EngineUnreachable:
            self._unreachable.inc()
            raise
        self._connected.inc()
        return connection

    def pool(self, view: EndpointView) -> Pool:
        """Return the pool of an endpoint."""
        pool = self._pools.get(view.url)
        if pool is None:
            pool = self._pools[view.url] = Pool(view.url, self._settings, self._clock, self._busy)
        return pool

    def head(self, view: EndpointView, path: str) -> bytes:
        """Return the part of a request's head that is the same for all of an endpoint's."""
        head = self.pool(view).head(path)
        if view.dp_rank is not None:
            head += b"%b: %d\r\n" % (DP_RANK_HEADER.encode(), view.dp_rank)
        return head

    def keep(self, views: Iterable[EndpointView]) -> frozenset[EndpointId]:
        """Close what is idle to endpoints not in ``views``; requests in flight there go on."""
        known = {view.endpoint_id: view.url for view in views}
        for url in self._pools.keys() - known.values():
            pool = self._pools.pop(url)
            pool.closing = True
            pool.close_idle(float("inf"))
        return frozenset(known)

    async def sweep(self) -> None:
        """Enforce every time limit, for ever; cancelled by its supervisor."""
        period_s = sweep_period_s(self._settings)
        while True:
            await self._clock.sleep(period_s)
            self.sweep_once(self._clock.now_s())

    def sweep_once(self, now_s: float) -> None:
        """Fail what has waited too long, close what has been idle too long, update the gauges."""
        for connection in list(self._busy):
            connection.check_progress(now_s)
        for pool in self._pools.values():
            pool.close_idle(now_s - self._settings.keepalive_s)
        self._busy_gauge.set(len(self._busy))
        self._idle_gauge.set(sum(pool.idle for pool in self._pools.values()))

    def close(self) -> None:
        """Close every connection, busy ones too."""
        self.keep(())
        for connection in list(self._busy):
            connection.abort()


def sweep_period_s(settings: UpstreamSettings) -> float:
    """Return how often to look: limits are kept to a quarter of the shortest, or 0.25 s."""
    limits = (settings.first_byte_s, settings.reply_s, settings.idle_s, settings.keepalive_s)
    return min(0.25, min(limits) / 4.0)
