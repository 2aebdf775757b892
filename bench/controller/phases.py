"""The phases of the benchmark: converge, rest, change after change, restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import aiohttp

from bench.controller.counts import Counting, Counts
from bench.controller.ground import TOLERATION
from bench.controller.seen import Seen, versions
from headrace.service.kube.api import Api
from headrace.service.kube.resource import (
    CONTROLLER_REVISIONS,
    EVENTS,
    MODEL_SERVICES,
    PDBS,
    PODS,
    Key,
)
from headrace.service.kube.writes import Writes

CONVERGE_S: Final = 2_400.0
ACTION_S: Final = 60.0
KINDS_WRITTEN: Final = (MODEL_SERVICES, PODS, CONTROLLER_REVISIONS, PDBS, EVENTS)
"""Everything that the controller writes."""

POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Bench:
    """What every phase needs.

    Attributes:
        api: The benchmark's own client, as administrator.
        making: To make services with, at a bounded rate.
        writes: To make changes with.
        seen: Its watches.
        rng: Spaces the changes.

    """

    api: Api
    making: Writes
    writes: Writes
    seen: Seen
    rng: Random


@dataclass(frozen=True, slots=True)
class Converged:
    """How services came to be, in seconds from the first call that made one."""

    made_s: float
    pods_s: float
    complete_s: float
    quiet_s: float
    used: Counts


@dataclass(frozen=True, slots=True)
class Changed:
    """What single changes led to.

    Attributes:
        answer_s: From the API server's answer to a change to the first pod made or told to go.
        request_s: The same from before the change was sent.
        used: By all of them until all was quiet.

    """

    answer_s: list[float]
    request_s: list[float]
    used: Counts


@dataclass(frozen=True, slots=True)
class Rested:
    """What went on while nothing was asked."""

    used: Counts
    objects_changed: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """How a new process took over."""

    first_look_s: float
    all_looked_s: float
    used: Counts
    served: int
    objects_changed: int


def service(key: Key, replicas: int) -> dict[str, Any]:
    """Return a ModelService of simulated engines that may run on made-up nodes."""
    return {
        "metadata": {"namespace": key[0], "name": key[1]},
        "spec": {
            "replicas": replicas,
            "engine": {"kind": "simulated", "args": ["--set", "engine.max_num_seqs=64"]},
            "variants": [{"name": "main", "tolerations": [TOLERATION]}],
        },
    }


async def converge(
    bench: Bench, counting: Counting, keys: Sequence[Key], replicas: int
) -> Converged:
    """Make services and wait until each is all that it asks to be."""
    before = await counting.now()
    began_s = time.perf_counter()
    pods = len(keys) * replicas
    there = asyncio.create_task(bench.seen.until(lambda: bench.seen.pods >= pods, CONVERGE_S))
    async with asyncio.TaskGroup() as group:
        for key in keys:
            made = service(key, replicas)
            group.create_task(bench.making.create(MODEL_SERVICES, made))
    made_s = time.perf_counter()
    complete_s = await bench.seen.until(lambda: bench.seen.is_settled(len(keys), pods), CONVERGE_S)
    pods_s = await there
    quiet_s = await counting.quiet(CONVERGE_S)
    used = (await counting.now()).since(before)
    return Converged(
        made_s - began_s, pods_s - began_s, complete_s - began_s, quiet_s - began_s, used
    )


async def change(
    bench: Bench,
    counting: Counting,
    keys: Sequence[Key],
    patch: Callable[[Key], Mapping[str, Any]],
    gap_s: float,
) -> Changed:
    """Change one service after the other, ``gap_s`` apart on average, at random moments."""
    before = await counting.now()
    tasks: list[asyncio.Task[tuple[float, float]]] = []
    async with asyncio.TaskGroup() as group:
        for key in keys:
            tasks.append(group.create_task(_one(bench, key, patch(key))))
            await asyncio.sleep(bench.rng.expovariate(1.0 / gap_s) if gap_s else 0.0)
    wanted = sum(there["replicas"] for there in bench.seen.services.values())
    await bench.seen.until(
        lambda: bench.seen.is_settled(len(bench.seen.services), wanted), CONVERGE_S
    )
    await counting.quiet(CONVERGE_S)
    used = (await counting.now()).since(before)
    done = [task.result() for task in tasks]
    return Changed([found[0] for found in done], [found[1] for found in done], used)


async def rest(bench: Bench, counting: Counting, for_s: float) -> Rested:
    """Ask nothing for a while."""
    there = await _all_versions(bench.api)
    before = await counting.now()
    await asyncio.sleep(for_s)
    used = (await counting.now()).since(before)
    now = await _all_versions(bench.api)
    return Rested(used, len(now.items() ^ there.items()))


async def restart(
    bench: Bench, start: Callable[[], Awaitable[Counting]], served: int, rest_s: float
) -> Restarted:
    """Watch a new process find everything as it should be.

    Args:
        bench: What every phase needs.
        start: Starts it; returns at once.
        served: Writes of the account so far, while no process ran.
        rest_s: How long to watch it after it has looked at everything.

    """
    there = await _all_versions(bench.api)
    began_s = time.perf_counter()
    counting = await start()
    first_s = await _looked(counting, 1)
    all_s = await _looked(counting, len(bench.seen.services))
    await asyncio.sleep(rest_s)
    used = await counting.now()
    now = await _all_versions(bench.api)
    changed = len(now.items() ^ there.items())
    return Restarted(first_s - began_s, all_s - began_s, used, used.served - served, changed)


async def _looked(counting: Counting, services: int) -> float:
    async with asyncio.timeout(CONVERGE_S), aiohttp.ClientSession() as session:
        while await counting.reconciles(session) < services:  # noqa: ASYNC110 -- a process's
            await asyncio.sleep(POLL_S)
    return time.perf_counter()


async def _one(bench: Bench, key: Key, patch: Mapping[str, Any]) -> tuple[float, float]:
    acted = bench.seen.expect(key)
    sent_s = time.perf_counter()
    await bench.writes.patch(MODEL_SERVICES, *key, patch)
    answered_s = time.perf_counter()
    async with asyncio.timeout(ACTION_S):
        acted_s = await acted
    # The watch may tell of the action before the answer has been read.
    return max(0.0, acted_s - answered_s), acted_s - sent_s


async def _all_versions(api: Api) -> dict[str, str]:
    """Return the versions of all objects that the controller could write."""
    found: dict[str, str] = {}
    for resource in KINDS_WRITTEN:
        found |= await versions(api, resource)
    return found
