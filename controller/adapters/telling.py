"""Says of each LoraAdapter where it is loaded. Asks sidecars, writes to the API server."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Protocol

import aiohttp
from typing_extensions import override

from controller.adapters.status import Answer, Failure, status
from controller.models.observe import pod_as_replica
from controller.models.words import RUNTIME_PORT
from controller.sight import Sight
from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.core.ids import ModelName
from headrace.runtime.adapter_objects import Claim, claims
from headrace.runtime.sidecar.client import SidecarClient
from headrace.runtime.sidecar.wire import AdaptersReply
from headrace.service.kube.api import Api
from headrace.service.kube.errors import KubeConflict, KubeError, KubeNotFound
from headrace.service.kube.reflector import Reflector
from headrace.service.kube.resource import LORA_ADAPTERS, PODS, Key, Object, key_of
from headrace.service.kube.writes import Writes
from headrace.service.log import get_logger

_log = get_logger("controller")

ASKED_AT_ONCE: Final = 32
"""Sidecars asked at the same time."""

GATHER_S: Final = 0.2
"""How long changes are gathered before statuses are looked at."""


ASK_S: Final = 3.0
"""Longest wait for one: it lists what its engine has, which is a call to the machine's own."""


class AsksSidecars(Protocol):
    """Reaches the sidecar of a replica."""

    async def adapters(self, url: str) -> AdaptersReply:
        """Return what it says of its adapters; any HeadraceError if it says nothing."""
        ...


class Sidecars(AsksSidecars):
    """Reaches them over HTTP."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @override
    async def adapters(self, url: str) -> AdaptersReply:
        return await SidecarClient(self._session, url, timeout_s=ASK_S).adapters_told()


class Telling:
    """Keeps the status of every LoraAdapter true; one owner, while it leads.

    Sidecars are asked once in a period, and only those of services that have adapters. A status is
    written only where it differs, so what does not change costs the API server nothing.

    Args:
        api: The client.
        sight: Services and their pods.
        writes: Writes the statuses.
        asks: Reaches the sidecars.
        namespace: "" for all.
        period_s: Between two times that sidecars are asked.
        clock: For waits.
        epoch_s: Seconds since 1970.

    """

    def __init__(  # noqa: PLR0913 -- the parts it joins
        self,
        api: Api,
        sight: Sight,
        writes: Writes,
        asks: AsksSidecars,
        *,
        namespace: str,
        period_s: float,
        clock: Clock,
        epoch_s: Callable[[], float],
    ) -> None:
        self._sight = sight
        self._writes = writes
        self._asks = asks
        self._period_s = period_s
        self._clock = clock
        self._epoch_s = epoch_s
        self._touched = asyncio.Event()
        self._adapters = Reflector(
            api,
            LORA_ADAPTERS,
            namespace=namespace,
            on_change=lambda _: self._touched.set(),
            clock=clock,
        )
        self._answers: dict[str, Answer] = {}  # by uid of the pod

    def tasks(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """Return what must run for the adapters to be known, and its names."""
        return [("watch-adapters", self._adapters.run)]

    async def run(self) -> None:
        """Tell for ever."""
        await self._adapters.synced()
        asked_s = float("-inf")
        while True:
            self._touched.clear()
            if self._clock.now_s() - asked_s >= self._period_s:
                asked_s = self._clock.now_s()
                await self._ask()
            await self._tell()
            with suppress(TimeoutError):
                left_s = asked_s + self._period_s - self._clock.now_s()
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._touched.wait()
            await self._clock.sleep(GATHER_S)

    async def _ask(self) -> None:
        """Ask every sidecar that matters; who says nothing is presumed to be as it was."""
        pods = {uid: url for service in self._bases() for uid, url in self._ready(service).items()}
        self._answers = {uid: said for uid, said in self._answers.items() if uid in pods}
        turn = asyncio.Semaphore(ASKED_AT_ONCE)

        async def one(uid: str, url: str) -> None:
            async with turn:
                try:
                    self._answers[uid] = _answer(await self._asks.adapters(url))
                except HeadraceError as error:
                    _log.debug("sidecar_silent", url=url, why=str(error))

        async with asyncio.TaskGroup() as group:
            for uid, url in pods.items():
                group.create_task(one(uid, url))

    async def _tell(self) -> None:
        found = claims(self._adapters.items.values(), self._sight.services.items)
        now = datetime.fromtimestamp(self._epoch_s(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        replicas = {service: list(self._ready(service)) for service in self._bases()}
        for key, claim in found.items():
            adapter = self._adapters.items.get(key)
            if adapter is None:
                continue
            uids = replicas.get(_base(adapter), ())
            answers = [self._answers.get(uid) for uid in uids]
            await self._write(key, adapter, claim, answers, now)

    async def _write(
        self, key: Key, adapter: Object, claim: Claim, answers: list[Answer | None], now: str
    ) -> None:
        made = status(adapter, claim, answers, now)
        if made == adapter.get("status"):
            return
        body = {
            "metadata": {
                "namespace": key[0],
                "name": key[1],
                "uid": adapter["metadata"]["uid"],
            },
            "status": made,
        }
        try:
            await self._writes.apply_status(LORA_ADAPTERS, body)
        except (KubeNotFound, KubeConflict):
            return  # it is gone, or another one by now
        except KubeError as error:
            _log.warning("adapter_status_kept", adapter="/".join(key), why=error.message)

    def _bases(self) -> set[Key]:
        """Return the services that have adapters."""
        return {_base(adapter) for adapter in self._adapters.items.values()}

    def _ready(self, service: Key) -> dict[str, str]:
        """Return the ready replicas of a service: uid of the pod, and where its sidecar is."""
        found = self._sight.services.items.get(service)
        if found is None:
            return {}
        pods = [
            *self._sight.of(PODS, service, found["metadata"]["uid"]),
            *self._sight.heads(service).values(),
        ]
        return {pod["metadata"]["uid"]: url for pod in pods if (url := _sidecar(pod))}


def _sidecar(pod: Object) -> str:
    """Return where the sidecar of a pod is; "" if the pod does not serve."""
    replica = pod_as_replica(pod)
    address = pod.get("status", {}).get("podIP")
    if not replica.ready or replica.ending or not address:
        return ""
    host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    return f"http://{host}:{RUNTIME_PORT}"


def _base(adapter: Object) -> Key:
    """Return the service that an adapter names; its spec may be of another schema."""
    return key_of(adapter)[0], str((adapter.get("spec") or {}).get("base", ""))


def _answer(reply: AdaptersReply) -> Answer:
    failures: Mapping[ModelName, Failure] = {
        ModelName(one.name): Failure(one.source, one.digest, one.why) for one in reply.failures
    }
    return Answer({ModelName(one.name): one.digest for one in reply.adapters}, failures)
