"""Runs work only while we lead. Reads and writes one Lease object.

``await Elector(...).run(work)`` campaigns, leads, and starts over when
leadership is lost; when it is cancelled, work is stopped first and the lease given back then.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from typing_extensions import override

from headrace.core.clock import Clock
from headrace.service.kube.api import Api, Call
from headrace.service.kube.errors import (
    KubeConflict,
    KubeError,
    KubeExists,
    KubeNotFound,
    KubeUnreachable,
)
from headrace.service.kube.events import time_of_day
from headrace.service.kube.lease import (
    Lease,
    Move,
    Standing,
    Terms,
    claimed,
    decide,
    given_back,
    lease_of,
    object_of,
    saw,
    wrote,
)
from headrace.service.kube.resource import LEASES
from headrace.service.log import get_logger

_log = get_logger("lease")

T = TypeVar("T")


class LeaseStore(Protocol):
    """Where one lease is kept. Both calls raise ``KubeError``."""

    async def read(self) -> Lease | None:
        """Return the lease as it is now, or None when there is none."""
        ...

    async def write(self, lease: Lease) -> Lease:
        """Create it when it has no version, else replace just that version; return it as kept."""
        ...


class KubeLeases(LeaseStore):
    """One Lease object of an API server."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name

    @override
    async def read(self) -> Lease | None:
        try:
            return lease_of(await self._api.send(Call("get", LEASES, self._namespace, self._name)))
        except KubeNotFound:
            return None

    @override
    async def write(self, lease: Lease) -> Lease:
        obj = object_of(lease, self._namespace, self._name, time_of_day())
        call = (
            Call("update", LEASES, self._namespace, self._name)
            if lease.version
            else Call("create", LEASES, self._namespace)
        )
        return lease_of(await self._api.send(call, obj))


def own_name() -> str:
    """Return a name that no other process has, nor we after a restart; starts with the host's."""
    return f"{socket.gethostname()}_{uuid4().hex[:12]}"


class Elector:
    """One candidate.

    Args:
        store: The lease.
        me: A name that no other candidate ever has.
        terms: How long the lease is good for; the same for all candidates.
        clock: For all waits and limits.
        rng: Spreads the attempts of several.

    """

    def __init__(self, store: LeaseStore, me: str, terms: Terms, clock: Clock, rng: Random) -> None:
        self._store = store
        self._me = me
        self._terms = terms
        self._clock = clock
        self._rng = rng
        self._standing = Standing()
        self._newest = False
        self._told = ""
        self._trouble = ""

    @property
    def leads(self) -> bool:
        """Whether we lead at this moment.

        Ask before each write to a place where two leaders would do harm: a process that was
        stopped for a while may go on working for a moment before its work is cancelled.
        """
        return self._standing.leads(self._clock.now_s())

    @property
    def leader(self) -> str:
        """Who held the lease when it was last looked at, or ""."""
        return self._standing.lease.holder if self._standing.lease else ""

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do ``work()`` whenever we lead, until it returns; what it raises is raised.

        When leadership is lost, work is cancelled, and begun anew when it is won again. The next
        attempt to win it is made only after work has ended.
        """
        try:
            while True:
                await self._campaign()
                _log.info("leading", me=self._me, changes=self._transitions)
                if await self._lead(work):
                    return
                _log.warning("not_leading", me=self._me, leader=self.leader)
        finally:
            await self._give_back()

    @property
    def _transitions(self) -> int:
        return self._standing.lease.transitions if self._standing.lease else 0

    async def _campaign(self) -> None:
        while True:
            await self._attempt()
            if self.leads:
                return
            if self.leader not in ("", self._me, self._told):
                self._told = self.leader
                _log.info("following", me=self._me, leader=self.leader)
            await self._clock.sleep(self._pause_s())

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Work while we lead; return whether work came to its end."""
        working = asyncio.ensure_future(work())
        parts = (
            working,
            asyncio.create_task(self._renew()),
            asyncio.create_task(self._expire()),
        )
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            finished = working.done()
        finally:
            # Even when we are cancelled ourselves: nobody may lead while this still works.
            await _stopped(*parts)
        for part in parts:
            if not part.cancelled():
                part.result()
        return finished

    async def _renew(self) -> None:
        """Renew until another turns out to lead."""
        while self.leads:
            await self._clock.sleep(self._pause_s())
            await self._attempt()

    async def _expire(self) -> None:
        """Return when we no longer lead, whatever a renewal may still wait for."""
        while (until_s := self._standing.leads_until_s) is not None and self.leads:
            await self._clock.sleep(max(0.0, until_s - self._clock.now_s()))

    def _pause_s(self) -> float:
        return self._terms.retry_s * self._rng.uniform(0.8, 1.0)

    async def _attempt(self) -> None:
        """Read the lease unless we know it, and write it if it is ours to write."""
        try:
            if not (self._newest and self.leads):
                lease = await self._within(self._store.read())
                self._standing = saw(self._standing, lease, self._clock.now_s())
            sent_s = self._clock.now_s()
            if decide(self._standing, self._me, sent_s) is not Move.WAIT:
                lease = claimed(self._standing.lease, self._me, self._terms, time_of_day())
                self._newest = False
                written = await self._within(self._store.write(lease))
                self._standing = wrote(self._standing, written, self._me, sent_s, self._terms)
                self._newest = True
        except (KubeConflict, KubeExists) as error:
            _log.debug("lease_changed", me=self._me, why=error.message)
        except KubeError as error:
            if error.message != self._trouble:
                self._trouble = error.message
                _log.warning("lease_unreachable", leads=self.leads, why=error.message)
            return
        self._trouble = ""

    async def _give_back(self) -> None:
        """Let another lead at once. Only ever called when no work is left."""
        if self.leader != self._me:
            return
        try:
            lease = await self._within(self._store.read())
            if lease is not None and lease.holder == self._me:
                written = await self._within(self._store.write(given_back(lease)))
                self._standing = wrote(
                    self._standing, written, self._me, self._clock.now_s(), self._terms
                )
        except KubeError as error:
            _log.warning("lease_kept", me=self._me, why=error.message)

    async def _within(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call for half the time we may lead without renewing: room for another try."""
        asking = asyncio.create_task(call)
        limit = asyncio.create_task(self._clock.sleep(self._terms.renew_s / 2))
        try:
            await asyncio.wait((asking, limit), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise KubeUnreachable("no answer in time")
        finally:
            await _stopped(asking, limit)
        return asking.result()


async def _stopped(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until all have ended, however often we are cancelled meanwhile."""
    for task in tasks:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
