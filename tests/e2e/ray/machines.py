"""A Ray cluster of several nodes on this machine, with cards that are not there."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

STORE_BYTES = 80 << 20
LOOK_S = 0.05
MARK = "HEADRACE_E2E_RAY"


class Machines:
    """A head that holds no replicas, and nodes of 2 CPUs and some GPUs each."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            from ray.cluster_utils import Cluster

            self._ray: Any = ray
            make: Any = Cluster
            self._cluster = make(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "object_store_memory": STORE_BYTES,
                    "include_dashboard": False,
                },
            )
            self.address = str(self._cluster.address)
            ray.init(
                address=self.address,
                namespace="headrace",
                log_to_driver=False,
                configure_logging=False,
            )

    def add(self, gpus: int = 2) -> Any:
        """Start a node and return it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._cluster.add_node(
                num_cpus=2, num_gpus=gpus, object_store_memory=STORE_BYTES
            )

    def kill(self, node: Any) -> None:
        """End a node's processes with SIGKILL, and what they started, as a power cut would."""
        raylet = psutil.Process(self._raylet_pid(node))
        lost = [raylet, *raylet.children(recursive=True)]
        for process in lost:
            if process.is_running():
                process.kill()
        psutil.wait_procs(lost, timeout=10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._cluster.remove_node(node, allow_graceful=False)

    def retire(self, node: Any) -> None:
        """Take a node that nobody uses out of the cluster."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._cluster.remove_node(node)

    def node_of(self, node_id: str) -> Any:
        """Return the node that Ray calls so."""
        (told,) = [each for each in self._ray.nodes() if each["NodeID"] == node_id]
        (found,) = [
            each
            for each in self._cluster.list_all_nodes()
            if each.raylet_socket_name == told["RayletSocketName"]
        ]
        return found

    def groups(self) -> dict[str, list[str]]:
        """Return the node ids of each placed group's shares, by the replica's short name."""
        found = {}
        for group in self._ray.util.placement_group_table().values():
            if group["state"] == "CREATED":
                _, fleet, index, _, token = group["name"].split(":")
                nodes = group["bundles_to_node_id"]
                found[f"{fleet}-{index}-{token}"] = [nodes[rank] for rank in sorted(nodes)]
        return found

    def supervisors(self) -> list[str]:
        """Return the names of the supervisors that live."""
        return sorted(self._ray.util.list_named_actors())

    def close(self) -> None:
        """End the cluster."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._ray.shutdown()
            self._cluster.shutdown()

    def _raylet_pid(self, node: Any) -> int:
        (info,) = node.all_processes["raylet"]
        return int(info.process.pid)


def eventually(holds: Callable[[], bool], limit_s: float, what: Callable[[], str]) -> float:
    """Look until something holds that nobody announces; return the seconds it took."""
    started_s = time.monotonic()
    while not holds():
        assert time.monotonic() - started_s < limit_s, f"not within {limit_s} s: {what()}"
        time.sleep(LOOK_S)
    return time.monotonic() - started_s


def mark() -> dict[str, str]:
    """Return the variable that tells engines of this run from those of others on this machine."""
    return {MARK: str(os.getpid())}


def marked() -> list[psutil.Process]:
    """Return every process that an engine of this run is, or has started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(os.getpid()):
                found.append(process)
    return found


def engines(of: str = "headrace.simulator.http") -> list[int]:
    """Return the processes of this run that are engines."""
    found = []
    for process in marked():
        with suppress(psutil.Error):
            if of in process.cmdline():
                found.append(process.pid)
    return sorted(found)
