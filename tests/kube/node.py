"""A real node: containerd, kubelet and kube-proxy in namespaces of their own, as on a machine of its own.

The first process of the node's pid namespace holds it: when that is killed, the kernel ends every process
of the node, pods included, and its mounts and network are gone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.kube import cgroups, network
from tests.kube.control_plane import ControlPlane
from tests.kube.network import Addresses
from tests.kube.processes import Daemon, run, start, wait_until

START_S = 30.0
PAUSE_IMAGE = "localhost/headrace-pause:1"

# Folders that containerd, its shims and the kubelet use by fixed names: private to the node.
PRIVATE = {"/run/containerd": "run", "/var/lib/kubelet": "kubelet", "/var/log": "var-log"}

# What a kubelet sets for the whole machine (how to behave on a panic, and the like). It sets a file of the
# node's instead, so that nothing of this machine is changed.
KERNEL_SETTINGS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)

CONTAINERD = """version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


@dataclass(slots=True)
class Node:
    """One node; ``daemons`` are its processes by name, among them ``init``."""

    index: int
    plane: ControlPlane
    tools: Path
    daemons: dict[str, Daemon]

    @property
    def name(self) -> str:
        return f"node-{self.index}"

    @property
    def address(self) -> str:
        return self._plan.node(self.index)

    @property
    def init_pid(self) -> int:
        """The first process of the node's namespaces, as the host numbers it."""
        leader = self.daemons["init"].pid
        return int(Path(f"/proc/{leader}/task/{leader}/children").read_text().split()[0])

    @property
    def folder(self) -> Path:
        return self.plane.folder / self.name

    @property
    def logs(self) -> Path:
        return self.plane.folder / "logs"

    @property
    def _plan(self) -> Addresses:
        return self.plane.plan

    @property
    def _cgroup(self) -> str:
        return f"{self._plan.bridge}/{self.name}"

    def start(self, others: list[Node]) -> None:
        """Start the node and all its programs; the kubelet registers it."""
        self.start_machine(others)
        self.start_runtime()
        self.start_kubelet()
        self.start_proxy()

    def start_machine(self, others: list[Node]) -> None:
        """Make the node's namespaces, control groups and network."""
        self.folder.mkdir(exist_ok=True)
        cgroups.make(self._cgroup)
        binds = []
        for at, kept in PRIVATE.items():
            (self.folder / kept).mkdir(exist_ok=True)
            binds.append(f"mkdir -p {at} && mount --bind {self.folder / kept} {at}")
        for setting in (Path("/proc/sys", name) for name in KERNEL_SETTINGS):
            own = self.folder / setting.name
            own.write_text(setting.read_text())
            binds.append(f"mount --bind {own} {setting}")
        script = " && ".join(["mount --make-rshared /", *binds, f"exec {self.tools / 'pause'}"])
        unshare = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self.daemons["init"] = start(
            f"{self.name} init", [*unshare, "sh", "-c", script], self._log("init")
        )
        wait_until(f"{self.name} has namespaces", self._holds, START_S)
        network.plug_in(self._plan, self.index, [other.index for other in others], self.init_pid)
        for other in others:
            network.route_pods(self._plan, self.index, other.init_pid)

    def start_runtime(self) -> None:
        """Start containerd and wait until it answers."""
        (self.folder / "cni").mkdir(exist_ok=True)
        (self.folder / "cni/10-pods.conflist").write_text(json.dumps(self._cni()))
        settings = self.folder / "containerd.toml"
        settings.write_text(
            CONTAINERD.format(
                root=self.folder / "containerd",
                state=self.folder / "containerd-state",
                socket=self._socket,
                cni=self.folder / "cni",
                pause=PAUSE_IMAGE,
            )
        )
        self._start("containerd", ["containerd", "--config", str(settings)])
        wait_until(f"{self.name} containerd answers", self._runtime_answers, START_S)

    def start_kubelet(self) -> None:
        """Start the kubelet (again)."""
        certificate = self.folder / "serving"
        if not certificate.exists():
            certificate.write_text(self.plane.node_certificate(self.index))
        settings = self.folder / "kubelet.json"
        settings.write_text(json.dumps(self._kubelet_settings(certificate.read_text())))
        account = self.plane.account(f"system:node:{self.name}")
        self._start(
            "kubelet",
            [
                *(str(self.tools / "kubelet"), f"--config={settings}", f"--kubeconfig={account}"),
                *(f"--hostname-override={self.name}", f"--node-ip={self.address}"),
                f"--node-labels=headrace.dev/test-node={self.name}",
            ],
        )

    def start_proxy(self) -> None:
        """Start kube-proxy: Services for this node's pods, and for the host when it routes through here."""
        settings = self.folder / "proxy.json"
        account = self.plane.account("system:kube-proxy")
        keep = {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        }
        settings.write_text(
            json.dumps(
                {
                    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                    "kind": "KubeProxyConfiguration",
                    "clientConnection": {"kubeconfig": str(account)},
                    "mode": "iptables",
                    "clusterCIDR": self._plan.all_pods,
                    "hostnameOverride": self.name,
                    "conntrack": keep,
                    "iptables": {"minSyncPeriod": "100ms"},
                }
            )
        )
        self._start("kube-proxy", [str(self.tools / "kube-proxy"), f"--config={settings}"])

    def stop_kubelet(self) -> None:
        """Kill the kubelet: containers run on, nobody reports or ends them."""
        self.daemons.pop("kubelet").kill()

    def cut_off(self) -> None:
        """Unplug the node: it runs on, and neither it nor its pods reach or are reached."""
        network.set_cable(self._plan, self.index, connected=False)

    def plug_in(self) -> None:
        """Undo ``cut_off``."""
        network.set_cable(self._plan, self.index, connected=True)

    def lose_power(self) -> None:
        """End every process of the node at once, pods included."""
        self.daemons["init"].kill()
        for daemon in self.daemons.values():
            daemon.stop()
        self.daemons.clear()

    def load_image(self, archive: Path) -> None:
        """Import an OCI or Docker archive into the node's containerd."""
        self._inside_ctr("-n", "k8s.io", "images", "import", str(archive))

    def remove(self) -> None:
        """End the node and remove what it left."""
        if self.daemons:
            self.lose_power()
        cgroups.remove(self._cgroup)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _socket(self) -> Path:
        return self.folder / "containerd.sock"

    def _inside_ctr(self, *argv: str) -> str:
        return run([*self._nsenter(), "ctr", "--address", str(self._socket), *argv])

    def _nsenter(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self.init_pid), "--net", "--mount", "--pid", "--")

    def _start(self, name: str, argv: list[str]) -> None:
        if name in self.daemons:
            self.daemons[name].stop()
        self.daemons[name] = start(
            f"{self.name} {name}", [*self._nsenter(), *argv], self._log(name), {"GOGC": "50"}
        )

    def _log(self, name: str) -> Path:
        return self.logs / f"{self.name}-{name}.log"

    def _holds(self) -> bool:
        try:
            return Path(f"/proc/{self.init_pid}/comm").read_text().strip() == "pause"
        except (FileNotFoundError, IndexError, ProcessLookupError):
            return False

    def _runtime_answers(self) -> bool:
        return self._socket.exists() and not subprocess.call(
            [*self._nsenter(), "ctr", "--address", str(self._socket), "version"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=START_S,
        )

    def _cni(self) -> dict[str, object]:
        pods = {"type": "host-local", "dataDir": str(self.folder / "addresses")}
        pods |= {"ranges": [[{"subnet": self._plan.pods(self.index)}]]}  # type: ignore[dict-item]
        bridge = {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {**pods, "routes": [{"dst": "0.0.0.0/0"}]},
        }
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}

    def _kubelet_settings(self, certificate: str) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": str(self.plane.authority)},
            },
            "tlsCertFile": f"{certificate}.crt",
            "tlsPrivateKeyFile": f"{certificate}.key",
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "clusterDNS": [self._plan.host],
            "clusterDomain": "cluster.local",
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "maxPods": 200,
            "nodeLeaseDurationSeconds": 8,
            "nodeStatusUpdateFrequency": "4s",
            "volumePluginDir": str(self.folder / "plugins"),
        }
