"""A real Kubernetes cluster on this machine: control plane, real nodes, made-up nodes for scale.

Everything of it lies in one folder and runs in processes whose ids are kept there, so that a cluster which
``python -m tests.kube up`` started can be used, and taken down, by another process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from tests.kube import cgroups, images, network
from tests.kube.control_plane import ControlPlane
from tests.kube.network import Addresses
from tests.kube.node import Node
from tests.kube.processes import CommandFailed, Daemon, run, wait_until
from tests.kube.programs import tools_dir

NODE_READY_S = 60.0
KUBECTL_LIMIT_S = 120.0
STATE = "cluster.json"
KWOK_BATCH = 500

# An API server that is asked to stop waits up to a minute for its watches to end; this is long enough for
# it to refuse new requests and finish those it has.
API_STOP_S = 3.0

# An API server that is asked to stop waits up to a minute for its watches to end; this is long enough for
# it to refuse new requests and finish those it has.
API_STOP_S = 3.0

# What a kubelet sets for the whole machine, put back when the cluster ends.
KERNEL_SETTINGS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)


class Cluster:
    """A cluster of this machine's own; ``Cluster.up`` starts one and ``attach`` finds one again."""

    def __init__(self, folder: Path, plan: Addresses) -> None:
        self.folder = folder
        self.plan = plan
        self.plane = ControlPlane(folder, tools_dir(), plan)
        self.nodes: list[Node] = []
        self._daemons: dict[str, Daemon] = {}
        self._images = [images.pause_image()]

    @classmethod
    def up(cls, folder: Path, nodes: int = 1) -> Cluster:
        """Start a cluster and wait until its nodes are ready.

        Raises:
            TookTooLong: some part did not come up within its bound; its log is in ``folder``/logs, and what
                had been started is down again.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cluster = cls(folder, network.claim_addresses())
        try:
            cluster._boot(nodes)
        except BaseException:
            cluster.down(keep_logs=True)
            raise
        return cluster

    @classmethod
    def attach(cls, folder: Path) -> Cluster:
        """Take charge of the cluster that was started in ``folder``.

        Raises:
            FileNotFoundError: there is none.
        """
        state = json.loads((folder / STATE).read_text())
        cluster = cls(folder, Addresses(state["net"]))
        cluster._recall()
        return cluster

    @property
    def kubeconfig(self) -> Path:
        """The administrator's; it works from the host."""
        return self.plane.kubeconfig

    @property
    def token(self) -> str:
        """The administrator's bearer token."""
        return self.plane.token

    @property
    def url(self) -> str:
        """The API server's, the same for host and pods."""
        return self.plane.url

    @property
    def kubectl_program(self) -> Path:
        return tools_dir() / "kubectl"

    def kubectl(
        self, *argv: str, stdin: str | None = None, limit_s: float = KUBECTL_LIMIT_S
    ) -> str:
        """Run kubectl as the administrator and return what it printed.

        Raises:
            CommandFailed: it failed; the message has its errors.
        """
        cache = f"--cache-dir={self.folder / 'kubectl'}"
        words: list[str | Path] = [
            self.kubectl_program,
            f"--kubeconfig={self.kubeconfig}",
            cache,
            *argv,
        ]
        return run(words, stdin, limit_s)

    def load_image(self, archive: Path) -> None:
        """Import an image archive into every real node, and into those that are added later."""
        self._images.append(archive)
        self.save()
        for node in self.nodes:
            node.load_image(archive)

    def add_node(self) -> Node:
        """Start one more real node, with the images that were loaded; wait until it is ready."""
        node = self._start_node()
        self._wait_node(node)
        return node

    def lose_power(self, index: int) -> None:
        """End every process of a node at once, pods included."""
        self.nodes[index].lose_power()
        self.save()

    def start_node(self, index: int) -> None:
        """Start a node that lost power; images that it had are there again."""
        node = self.nodes[index]
        seen = self._ready_nodes("headrace.dev/test-node")
        node.start([other for other in self.nodes if other is not node and other.daemons])
        self.save()
        self._wait_node(node, seen)

    def stop_kubelet(self, index: int = 0) -> None:
        """Kill a node's kubelet: after 30 s the control plane holds the node for lost."""
        self.nodes[index].stop_kubelet()
        self.save()

    def start_kubelet(self, index: int = 0) -> None:
        """Start it again and wait until it has reported."""
        seen = self._ready_nodes("headrace.dev/test-node")
        self.nodes[index].start_kubelet()
        self.save()
        self._wait_node(self.nodes[index], seen)

    def stop_apiserver(self) -> None:
        """Kill the API server, as a crash does."""
        self._daemons.pop("kube-apiserver").kill()
        self.save()

    def start_apiserver(self) -> None:
        """Start it (again) and wait until it is ready."""
        self._keep(self.plane.start_api())
        self.plane.wait_ready([*self._daemons.values()])

    def restart_apiserver(self) -> None:
        """Stop the API server the way an upgrade does; return when the new one is ready."""
        self._daemons.pop("kube-apiserver").stop(API_STOP_S)
        self.start_apiserver()

    def route_services_through(self, node: Node) -> None:
        """Choose the node that takes the host to Services (the first, unless it is the one to lose)."""
        network.route_services(self.plan, node.index)

    def add_kwok_nodes(self, count: int, cpu: int = 64) -> list[str]:
        """Add made-up nodes that say of every pod that it runs; return their names.

        They carry the label ``type=kwok`` and the taint ``kwok.x-k8s.io/node=fake:NoSchedule``.
        """
        if "kwok" not in self._daemons:
            self._keep([self.plane.start_kwok()])
        names = [f"kwok-{index}" for index in range(count)]
        for start in range(0, count, KWOK_BATCH):
            items = [_kwok_node(name, cpu) for name in names[start : start + KWOK_BATCH]]
            listed = {"apiVersion": "v1", "kind": "List", "items": items}
            self.kubectl("create", "-f", "-", stdin=json.dumps(listed))
        self.kubectl(*("wait", "--for=condition=Ready", "node", "-l", "type=kwok", "--timeout=60s"))
        return names

    def rss_bytes(self) -> dict[str, int]:
        """Return the resident memory of each program, in bytes (pages of the one file count in each)."""
        programs = {**self._daemons}
        for node in self.nodes:
            programs |= {daemon.name: daemon for daemon in node.daemons.values()}
        return {name: daemon.rss_bytes() for name, daemon in programs.items()}

    def dead(self) -> list[str]:
        """Return the programs that should run and do not."""
        daemons = [*self._daemons.values()]
        daemons += [daemon for node in self.nodes for daemon in node.daemons.values()]
        return [daemon.name for daemon in daemons if not daemon.alive()]

    def down(self, *, keep_logs: bool = False) -> None:
        """End everything: processes, mounts, control groups, network; then the folder, or all but its logs."""
        if (self.folder / STATE).exists():
            self._recall()
        with ExitStack() as steps:  # the last first, each whatever becomes of the others
            steps.callback(cgroups.remove, self.plan.bridge)
            steps.callback(network.remove_bridge, self.plan)
            for daemon in self._daemons.values():
                steps.callback(daemon.stop, API_STOP_S)
            for node in self.nodes:
                steps.callback(node.remove)
        if not keep_logs:
            shutil.rmtree(self.folder)
            return
        for entry in self.folder.iterdir():
            if entry.name != "logs":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def save(self) -> None:
        """Write down which processes make up the cluster."""
        state = {
            "net": self.plan.net,
            "images": [str(archive) for archive in self._images],
            "daemons": {name: asdict(daemon) for name, daemon in self._daemons.items()},
            "nodes": [
                {name: asdict(daemon) for name, daemon in node.daemons.items()}
                for node in self.nodes
            ],
        }
        (self.folder / STATE).touch(mode=0o600)
        (self.folder / STATE).write_text(json.dumps(state, indent=2))

    def _recall(self) -> None:
        """Learn what another object, or process, has done to the cluster since."""
        state = json.loads((self.folder / STATE).read_text())
        self._daemons = _read_daemons(state["daemons"])
        self._images = [Path(archive) for archive in state["images"]]
        self.nodes = [
            Node(index, self.plane, tools_dir(), _read_daemons(daemons))
            for index, daemons in enumerate(state["nodes"])
        ]

    def _boot(self, nodes: int) -> None:
        self.plane.prepare()
        self._keep([*self.plane.start_store(), *self.plane.start_api()])
        for _ in range(nodes):
            self._start_node()
        network.route_services(self.plan, 0)
        self.plane.wait_ready([*self._daemons.values()])
        self._keep(self.plane.start_controllers())
        for node in self.nodes:
            self._wait_node(node)
        self._wait_account()

    def _start_node(self) -> Node:
        node = Node(len(self.nodes), self.plane, tools_dir(), {})
        others = [other for other in self.nodes if other.daemons]
        self.nodes.append(node)
        try:
            node.start(others)
            for archive in self._images:
                node.load_image(archive)
        finally:
            self.save()
        return node

    def _keep(self, daemons: Sequence[Daemon]) -> None:
        self._daemons |= {daemon.name: daemon for daemon in daemons}
        self.save()

    def _wait_node(self, node: Node, seen: Mapping[str, str] = MappingProxyType({})) -> None:
        """Wait until a node says that it is ready: anew, where it had said so before (``seen``)."""
        chosen = f"headrace.dev/test-node={node.name}"

        def ready() -> bool:
            said = self._ready_nodes(chosen).get(node.name)
            return said is not None and said != seen.get(node.name)

        wait_until(f"{node.name} is ready", ready, NODE_READY_S, self._daemons_of(node))

    def _ready_nodes(self, selector: str) -> dict[str, str]:
        """Return the ready nodes, each with when it last said so."""
        try:
            listed = json.loads(self.kubectl("get", "nodes", "-l", selector, "-o", "json"))
        except CommandFailed:
            return {}
        return {
            item["metadata"]["name"]: condition["lastHeartbeatTime"]
            for item in listed["items"]
            for condition in item["status"].get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"
        }

    def _daemons_of(self, node: Node) -> list[Daemon]:
        return [*self._daemons.values(), *node.daemons.values()]

    def _wait_account(self) -> None:
        """Wait for the account without which no pod can be made in the default namespace."""

        def made() -> bool:
            return "default" in self.kubectl(
                *("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
            )

        wait_until(
            "the default service account is made", made, NODE_READY_S, [*self._daemons.values()]
        )


@contextmanager
def running_cluster(folder: Path, nodes: int = 1, *, keep_logs: bool = False) -> Iterator[Cluster]:
    """A cluster for the length of a block."""
    cluster = Cluster.up(folder, nodes)
    try:
        yield cluster
    finally:
        cluster.down(keep_logs=keep_logs)


def _read_daemons(state: dict[str, dict[str, object]]) -> dict[str, Daemon]:
    return {name: Daemon(**daemon) for name, daemon in state.items()}  # type: ignore[arg-type]


def _kwok_node(name: str, cpu: int) -> dict[str, object]:
    resources = {"cpu": str(cpu), "memory": "512Gi", "pods": "250", "nvidia.com/gpu": "8"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name},
        },
        "spec": {
            "taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]
        },
        "status": {"allocatable": resources, "capacity": resources},
    }
