"""Ray, as far as the fleet needs it: bounded, awaitable, and with our words. Talks to Ray.

Ray's own calls block, some without limit; they run in a few threads of ours and are waited for no
longer than allowed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import ray
import ray.exceptions
import ray.util
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from controller.fleets.ray.names import NAMESPACE, ReplicaName
from controller.fleets.ray.reports import Assignment, Report, encode, read_report
from controller.fleets.ray.shape import Demand
from controller.fleets.ray.supervisor import Supervisor
from headrace.core.errors import ConfigError, HeadraceError

T = TypeVar("T")

PACKAGE_ROOT: Final = Path(__file__).resolve().parents[3]
THREADS: Final = 4


class SupervisorDied(HeadraceError):
    """Ray knows that the actor is gone."""


class ClusterSilent(HeadraceError):
    """Ray did not answer in time; nothing is known."""


@dataclass(frozen=True, slots=True)
class GroupState:
    """A placement group as Ray tells of it: has every share its room?"""

    placed: bool
    nodes: tuple[str, ...]


class RayCluster:
    """A connection to a running cluster. Made by ``connect``, ended by ``close``."""

    def __init__(self, call_s: float) -> None:
        self._call_s = call_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ray-calls")
        self._handles: dict[ReplicaName, Any] = {}
        self._asked: dict[ReplicaName, asyncio.Future[Any]] = {}

    async def connect(self, address: str, field: str = "fleet.ray.address") -> None:
        """Join the cluster; in a thread, since Ray would else take over our SIGTERM.

        Args:
            address: host:port of the head, or auto.
            field: The setting that says so, named in the error.

        Raises:
            ConfigError: when there is none at that address.

        """
        try:
            await _listening(address, self._call_s)
            await self._call(lambda: _connect(address), limit_s=6 * self._call_s)
        except (OSError, ValueError, RuntimeError, ClusterSilent) as error:
            self._threads.shutdown(wait=False, cancel_futures=True)
            raise ConfigError(
                f"{field}: no Ray cluster answers at {address!r} ({error}); "
                "start one with `ray start --head`, and join this machine to it"
            ) from None

    async def close(self) -> None:
        """Leave the cluster; detached supervisors live on."""
        for asked in self._asked.values():
            asked.cancel()
        with suppress(ClusterSilent):
            await self._call(ray.shutdown)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def supervisors(self) -> set[ReplicaName]:
        """Return who has a supervisor that is not known to be dead.

        Raises:
            ClusterSilent: when Ray does not answer.

        """
        names: list[str] = await self._call(ray.util.list_named_actors)
        found = {name for text in names if (name := ReplicaName.parse(text)) is not None}
        for gone in self._handles.keys() - found:
            del self._handles[gone]
            self._forget(gone)
        return found

    async def groups(self) -> dict[ReplicaName, GroupState]:
        """Return the placement groups of all fleets that have not been removed.

        Raises:
            ClusterSilent: when Ray does not answer.

        """
        table: dict[str, Any] = await self._call(ray.util.placement_group_table)
        found = {}
        for group in table.values():
            name = ReplicaName.parse(group["name"])
            if name is not None and group["state"] != "REMOVED":
                nodes = group["bundles_to_node_id"]
                found[name] = GroupState(
                    group["state"] == "CREATED", tuple(nodes[index] for index in sorted(nodes))
                )
        return found

    async def room(self) -> tuple[Sequence[Mapping[str, float]], Mapping[str, float]]:
        """Return the resources of each node that is alive, and what is free over all.

        Raises:
            ClusterSilent: when Ray does not answer.

        """
        nodes: list[dict[str, Any]] = await self._call(ray.nodes)
        free: dict[str, float] = await self._call(ray.available_resources)
        return [node["Resources"] for node in nodes if node["Alive"]], free

    async def create(self, name: ReplicaName, demand: Demand, assignment: Assignment) -> None:
        """Ask for room, and for a supervisor to start there once there is room.

        Raises:
            ClusterSilent: when Ray does not answer.

        """
        self._handles[name] = await self._call(lambda: _create(name, demand, assignment))

    async def report(self, name: ReplicaName) -> Report:
        """Return what a supervisor tells.

        Raises:
            SupervisorDied: when Ray knows that it is gone.
            ClusterSilent: when it does not answer in time; the question stays asked.

        """
        asked = self._asked.get(name)
        if asked is None:
            handle = await self._handle(name)
            asked = self._asked[name] = asyncio.ensure_future(_awaited(handle.report.remote()))
        try:
            async with asyncio.timeout(self._call_s):
                data = await asyncio.shield(asked)
        except TimeoutError:
            raise ClusterSilent(f"{name}: no answer in {self._call_s} s") from None
        except ray.exceptions.ActorUnavailableError as error:
            self._forget(name)
            raise ClusterSilent(str(error)) from None
        except ray.exceptions.RayError as error:
            self._forget(name)
            raise SupervisorDied(str(error)) from None
        self._forget(name)
        return read_report(data)

    async def stop(self, name: ReplicaName, limit_s: float) -> None:
        """Have a supervisor drain and end its engine; one that is gone is no error."""
        with suppress(ray.exceptions.RayError, TimeoutError, SupervisorDied, ClusterSilent):
            handle = await self._handle(name)
            async with asyncio.timeout(limit_s):
                await _awaited(handle.stop.remote())

    async def logs(self, name: ReplicaName, lines: int = 20) -> str:
        """Return the last lines of the engine's log, or nothing when its supervisor is gone."""
        with suppress(ray.exceptions.RayError, TimeoutError, SupervisorDied, ClusterSilent):
            handle = await self._handle(name)
            async with asyncio.timeout(self._call_s):
                return str(await _awaited(handle.logs.remote(lines)))
        return ""

    async def remove(self, name: ReplicaName) -> None:
        """End the supervisor and give its room back; what is not there is no error.

        Raises:
            ClusterSilent: when Ray does not answer.

        """
        self._forget(name)
        self._handles.pop(name, None)
        await self._call(lambda: _remove(str(name)))

    async def _handle(self, name: ReplicaName) -> Any:
        if name not in self._handles:
            try:
                self._handles[name] = await self._call(lambda: ray.get_actor(str(name)))
            except ValueError as error:
                raise SupervisorDied(str(error)) from None
        return self._handles[name]

    def _forget(self, name: ReplicaName) -> None:
        asked = self._asked.pop(name, None)
        if asked is not None and not asked.done():
            asked.cancel()

    async def _call(self, work: Callable[[], T], limit_s: float | None = None) -> T:
        limit_s = limit_s or self._call_s
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            async with asyncio.timeout(limit_s):
                return await running
        except TimeoutError:
            raise ClusterSilent(f"Ray did not answer in {limit_s} s") from None
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise ClusterSilent(str(error)) from None


async def _listening(address: str, limit_s: float) -> None:
    """Return when somebody listens at ``host:port``: Ray would try for minutes.

    Raises:
        OSError: when nobody does.
        ValueError: when it is no address.

    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(limit_s):
        _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    await writer.wait_closed()


def _connect(address: str) -> None:
    # It warns that it cannot take over SIGTERM from a thread, which is why it runs in one.
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        # Supervisors import this package; a checkout is not installed on the nodes.
        runtime_env={"env_vars": {"PYTHONPATH": str(PACKAGE_ROOT)}},
    )


def _create(name: ReplicaName, demand: Demand, assignment: Assignment) -> Any:
    group = ray.util.placement_group(
        [dict(bundle) for bundle in demand.bundles],
        strategy=demand.placement.value.upper(),
        name=str(name),
        lifetime="detached",
    )
    first = dict(demand.bundles[0])
    make: Any = ray.remote(Supervisor)
    return make.options(
        name=str(name),
        lifetime="detached",
        num_cpus=first.pop("CPU", 0.0),
        num_gpus=first.pop("GPU", 0.0),
        resources=first,
        max_restarts=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0),
    ).remote(encode(assignment))


def _remove(name: str) -> None:
    with suppress(ValueError):
        ray.kill(ray.get_actor(name))
    with suppress(ValueError):
        ray.util.remove_placement_group(ray.util.get_placement_group(name))


async def _awaited(reference: Any) -> Any:
    return await reference
