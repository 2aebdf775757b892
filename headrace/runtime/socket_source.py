"""Follows the list of endpoints that a fleet tells on a Unix socket. Opens sockets.

While nobody tells, the last list stays in force.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from typing_extensions import override

from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView
from headrace.core.errors import ConfigError
from headrace.runtime.discovery import EndpointSource, ListSource, or_gone
from headrace.runtime.listing import LISTING_BYTES, read_listing
from headrace.service.log import get_logger

_log = get_logger("endpoints")

HEARTBEAT_S: Final = 2.0
"""A teller repeats its list so often, that silence can be told from nothing new."""


@dataclass(frozen=True, slots=True)
class FollowLimits:
    """Bounds on following a socket. Seconds.

    Attributes:
        silent_s: After which a teller that says nothing is away.
        retry_first_s: Wait before the next attempt; each further one doubles it.
        retry_most_s: Longest such wait.

    """

    silent_s: float = 3 * HEARTBEAT_S
    retry_first_s: float = 0.1
    retry_most_s: float = 2.0


class SocketSource(EndpointSource):
    """What is told at a socket; up to date while ``run`` runs."""

    def __init__(
        self, path: Path, clock: Clock, rng: Random, limits: FollowLimits | None = None
    ) -> None:
        self._path = path
        self._clock = clock
        self._rng = rng
        self._limits = limits or FollowLimits()
        self._list = ListSource()
        self._first = asyncio.Event()
        self._line = b""
        self._problem = ""
        self._away = False

    @override
    def endpoints(self) -> list[EndpointView]:
        return self._list.endpoints()

    @override
    async def changed(self) -> None:
        await self._list.changed()

    @property
    @override
    def away(self) -> bool:
        return self._away or bool(self._problem)

    @property
    def problem(self) -> str:
        """What is wrong with what was told last: the list is an older one; empty if nothing."""
        return self._problem

    async def synced(self) -> None:
        """Wait until a list has been heard."""
        await self._first.wait()

    async def run(self) -> None:
        """Follow the socket until cancelled."""
        limits, failures = self._limits, 0
        while True:
            heard, why = await self._listen()
            failures = 1 if heard else failures + 1
            self._lost(why)
            wait_s = min(limits.retry_most_s, limits.retry_first_s * 2.0 ** min(failures - 1, 30))
            await self._clock.sleep(wait_s * self._rng.uniform(0.5, 1.0))

    async def _listen(self) -> tuple[bool, str]:
        """Take what one connection tells; return whether it told something, and why it ended."""
        heard = False
        try:
            async with asyncio.timeout(self._limits.silent_s):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=LISTING_BYTES)
        except TimeoutError:
            return heard, f"not connected within {self._limits.silent_s} s"
        except OSError as error:
            return heard, error.strerror or str(error)
        try:
            while True:
                async with asyncio.timeout(self._limits.silent_s):
                    line = await reader.readline()
                if not line.endswith(b"\n"):
                    return heard, "it has ended"
                heard = True
                self._hear(line)
        except TimeoutError:
            return heard, f"silent for {self._limits.silent_s} s"
        except (OSError, ValueError) as error:  # a ValueError is a line without end
            return heard, str(error)
        finally:
            writer.close()

    def _hear(self, line: bytes) -> None:
        if self._away:
            self._away = False
            _log.info("fleet_back", socket=str(self._path))
        if line == self._line:
            return
        self._line = line
        try:
            self._list.replace(or_gone(read_listing(line), self._list.endpoints()))
        except ConfigError as error:
            self._problem = str(error)
            effect = "the last good list stays in use"
            _log.warning("fleet_unusable", socket=str(self._path), why=str(error), effect=effect)
            return
        self._problem = ""
        self._first.set()

    def _lost(self, why: str) -> None:
        if not self._away:
            self._away = True
            effect = "the last list stays in use" if self._first.is_set() else "waiting for it"
            _log.warning("fleet_away", socket=str(self._path), why=why, effect=effect)
