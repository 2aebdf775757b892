"""What a controller has done and used so far, by its own account and by others'."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from bench.controller.ground import busy_s, cpu_s, pids, samples, writes_served
from bench.gateway.process import Child
from headrace.service.kube.api import WRITES
from tests.kube.cluster import Cluster

QUIET_S: Final = 5.0
"""Nothing has been done for so long: what was under way has ended. Its counts lag by a second."""

POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums since the start of the controller, or the difference of two of them.

    Attributes:
        at_s: Of the benchmark's clock.
        cpu_s: User and system time of the controller.
        reconciles: Looks at a service.
        calls: To the API server by verb and resource, as the controller counts them.
        served: Writes of its account, as the API server counts them.
        busy_s: CPU time of everything on this machine.
        plane_s: CPU time of the control plane and the made-up nodes, by process.
        own_s: CPU time of the benchmark itself.

    """

    at_s: float
    cpu_s: float
    reconciles: int
    calls: Counter[tuple[str, str]]
    served: int
    busy_s: float
    plane_s: Mapping[str, float]
    own_s: float

    @property
    def writes(self) -> int:
        """Calls that change something."""
        return sum(count for (verb, _), count in self.calls.items() if verb in WRITES)

    @property
    def reads(self) -> int:
        """Calls that do not."""
        return self.calls.total() - self.writes

    @property
    def others_ratio(self) -> float:
        """Part of the busy CPU time that went to nothing of this benchmark's."""
        ours_s = self.cpu_s + self.own_s + sum(self.plane_s.values())
        return max(0.0, self.busy_s - ours_s) / self.busy_s if self.busy_s else 0.0

    def since(self, before: Counts) -> Counts:
        """Return what came after ``before``."""
        plane_s = {name: value - before.plane_s[name] for name, value in self.plane_s.items()}
        return Counts(
            self.at_s - before.at_s,
            self.cpu_s - before.cpu_s,
            self.reconciles - before.reconciles,
            self.calls - before.calls,
            self.served - before.served,
            self.busy_s - before.busy_s,
            plane_s,
            self.own_s - before.own_s,
        )


class Counting:
    """Reads the counts of one controller process."""

    def __init__(self, cluster: Cluster, child: Child, url: str) -> None:
        self._cluster = cluster
        self._child = child
        self.url = url

    async def reconciles(self, session: aiohttp.ClientSession) -> int:
        """Return how often a service was looked at; 0 while nobody answers."""
        try:
            return _reconciles(await self._said(session))
        except aiohttp.ClientError:
            return 0

    async def now(self) -> Counts:
        """Return everything as it is."""
        served = await asyncio.to_thread(writes_served, self._cluster)
        async with aiohttp.ClientSession() as session:
            text = await self._said(session)
        return Counts(
            time.perf_counter(),
            self._child.cpu_s(),
            _reconciles(text),
            _calls(text),
            served,
            busy_s(),
            {name: cpu_s(pid) for name, pid in pids(self._cluster).items()},
            time.process_time(),
        )

    async def quiet(self, limit_s: float) -> float:
        """Wait until the controller has done nothing for a while; return when it last did."""
        last_s, last = time.perf_counter(), (-1, -1)
        async with asyncio.timeout(limit_s), aiohttp.ClientSession() as session:
            while time.perf_counter() - last_s < QUIET_S:
                text = await self._said(session)
                found = (_reconciles(text), _calls(text).total())
                if found != last:
                    last_s, last = time.perf_counter(), found
                await asyncio.sleep(POLL_S)
        return last_s

    async def _said(self, session: aiohttp.ClientSession) -> str:
        async with session.get(f"{self.url}/metrics") as answer:
            return await answer.text()


def _reconciles(text: str) -> int:
    return int(sum(value for _, value in samples(text, "headrace_reconciles_total")))


def _calls(text: str) -> Counter[tuple[str, str]]:
    found = samples(text, "headrace_kube_calls_total")
    return Counter({(said["verb"], said["resource"]): int(value) for said, value in found})
