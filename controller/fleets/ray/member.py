"""One node of a replica of several: answers that it is there, and runs the engine's share there.

An actor that the replica's supervisor makes and owns: Ray ends it with the supervisor.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.util

from controller.fleets.config import FleetSettings
from controller.fleets.ray.recipe import Group, own_settings, share
from controller.fleets.ray.reports import read_assignment
from controller.fleets.spawn import Spawner, log_tail


class Member:
    """A node of a replica, not its first."""

    async def join(self) -> str:
        """Return the node's address, which says that the node is there."""
        return node_address()

    async def run(self, assignment: bytes, group: Group, rank: int) -> str:
        """Run the engine's share of this node, if it has one; return why it ended.

        Raises:
            ConfigError: if the engine is not installed here.
            SpawnFailed: if it cannot be started.

        """
        assigned = read_assignment(assignment)
        settings = FleetSettings.model_validate_json(assigned.settings)
        own = own_settings(settings, assigned.index, gpu_ids())
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="headrace-"))
        launch = share(settings, own, group, rank, folder)
        if launch is None:
            await asyncio.get_running_loop().create_future()
            return "never"
        log = folder / f"share-{rank}.log"
        spawner = await Spawner.open(
            own.own_python,
            {},
            folder / "spawner.log",
            prefork=False,
            timeout_s=settings.timeouts.start_s,
        )
        try:
            argv = [*launch.program, *launch.args]
            await spawner.spawn(f"share-{rank}", argv, launch.env, log=log, cwd=folder)
            code = await spawner.exited(f"share-{rank}")
            return f"share {rank} of the engine ended with {code}{log_tail(log)}"
        finally:
            await spawner.close()


def gpu_ids() -> list[int]:
    """Return the device indexes that Ray gave this actor."""
    return [int(each) for each in ray.get_gpu_ids()]


def node_address() -> str:
    """Return the address by which other nodes reach the one that we run on."""
    untyped: Any = ray.util
    return str(untyped.get_node_ip_address())
