"""etcd, API server, controller manager, scheduler and DNS: processes of the host."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tests.kube import certs
from tests.kube.network import Addresses
from tests.kube.processes import Daemon, start, wait_until
from tests.kube.programs import free_port

READY_S = 90.0
MOST_NODES = 8
API_PORT = 6443

# A kubelet renews its lease every 2 s (node.py) and kwok every 10 s: a node is lost after 30 s of silence,
# where a production cluster waits 50 s. Shorter, and a restart of the API server on a busy machine loses nodes.
NODE_GRACE = "30s"

# These clients limit themselves to 20 to 50 requests/s, too few for thousands of pods.
FAST = ("--kube-api-qps=300", "--kube-api-burst=600")


class ControlPlane:
    """Starts, stops and restarts the programs; what they share lies under ``folder``."""

    def __init__(self, folder: Path, tools: Path, plan: Addresses) -> None:
        self.folder = folder
        self.plan = plan
        self.url = f"https://{plan.host}:{API_PORT}"
        self._tools = tools
        self._pki = folder / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.folder / "kubeconfig"

    @property
    def token(self) -> str:
        """The administrator's."""
        config = json.loads(self.kubeconfig.read_text())
        return str(config["users"][0]["user"]["token"])

    def account(self, user: str) -> Path:
        """Return the kubeconfig of one of the accounts that ``prepare`` made."""
        return self._pki / f"{user.replace(':', '-')}.kubeconfig"

    def node_certificate(self, index: int) -> str:
        """Make a kubelet's serving certificate; return the path without its ending."""
        certs.new_certificate(
            self._pki, f"node-{index}", f"/CN=node-{index}", [f"IP:{self.plan.node(index)}"]
        )
        return str(self._pki / f"node-{index}")

    @property
    def authority(self) -> Path:
        return self._pki / "ca.crt"

    def prepare(self) -> None:
        """Make keys, certificates and accounts."""
        self._pki.mkdir(mode=0o700)
        (self.folder / "logs").mkdir()
        certs.new_authority(self._pki)
        certs.new_key(self._pki / "accounts.key")
        names = [
            *(f"IP:{self.plan.host}", f"IP:{self.plan.api_service}", "DNS:kubernetes"),
            *("DNS:kubernetes.default.svc", "DNS:kubernetes.default.svc.cluster.local"),
        ]
        certs.new_certificate(self._pki, "apiserver", "/CN=kube-apiserver", names)
        certs.new_certificate(self._pki, "to-kubelets", f"/O={certs.MASTERS}/CN=kube-apiserver")
        users = [("admin", certs.MASTERS), ("coredns", certs.MASTERS), ("kwok", certs.MASTERS)]
        users += [(f"system:node:node-{index}", "system:nodes") for index in range(MOST_NODES)]
        users += [
            (f"system:{name}", "")
            for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy")
        ]
        accounts = certs.new_accounts(users, self._pki / "tokens.csv")
        for account in accounts.values():
            certs.write_kubeconfig(
                self.account(account.user), self.url, self.authority, account.token
            )
        self.kubeconfig.write_bytes(self.account("admin").read_bytes())

    def start_store(self) -> list[Daemon]:
        """Start etcd, on free ports of loopback."""
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        (self.folder / "etcd-url").write_text(client)
        return [
            self._start(
                "etcd",
                [
                    *("--data-dir", self.folder / "etcd", "--unsafe-no-fsync"),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", f"default={peer}", "--log-level", "warn"),
                ],
            )
        ]

    def start_api(self) -> list[Daemon]:
        """Start the API server (``wait_ready`` waits for it)."""
        pki = self._pki
        return [
            self._start(
                "kube-apiserver",
                [
                    f"--etcd-servers={(self.folder / 'etcd-url').read_text()}",
                    f"--bind-address={self.plan.host}",
                    f"--advertise-address={self.plan.host}",
                    f"--secure-port={API_PORT}",
                    f"--service-cluster-ip-range={self.plan.services}",
                    "--authorization-mode=Node,RBAC",
                    "--enable-admission-plugins=NodeRestriction",
                    f"--token-auth-file={pki / 'tokens.csv'}",
                    f"--client-ca-file={self.authority}",
                    f"--tls-cert-file={pki / 'apiserver.crt'}",
                    f"--tls-private-key-file={pki / 'apiserver.key'}",
                    f"--kubelet-client-certificate={pki / 'to-kubelets.crt'}",
                    f"--kubelet-client-key={pki / 'to-kubelets.key'}",
                    f"--kubelet-certificate-authority={self.authority}",
                    "--kubelet-preferred-address-types=InternalIP",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    f"--service-account-key-file={pki / 'accounts.key'}",
                    f"--service-account-signing-key-file={pki / 'accounts.key'}",
                    "--allow-privileged=true",
                    "--profiling=false",
                    "--endpoint-reconciler-type=master-count",
                ],
            )
        ]

    def start_controllers(self) -> list[Daemon]:
        """Start what needs a ready API server: controller manager, scheduler, DNS."""
        manager = self.account("system:kube-controller-manager")
        controller_manager = self._start(
            "kube-controller-manager",
            [
                f"--kubeconfig={manager}",
                *FAST,
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={self._pki / 'accounts.key'}",
                f"--root-ca-file={self.authority}",
                f"--node-monitor-grace-period={NODE_GRACE}",
                "--node-monitor-period=2s",
                f"--flex-volume-plugin-dir={self.folder / 'plugins'}",
                "--leader-elect=false",
                "--secure-port=0",
                "--profiling=false",
            ],
        )
        scheduler = self._start(
            "kube-scheduler",
            [
                f"--kubeconfig={self.account('system:kube-scheduler')}",
                *FAST,
                "--leader-elect=false",
                "--secure-port=0",
                "--profiling=false",
            ],
        )
        return [controller_manager, scheduler, self._start_dns()]

    def start_kwok(self) -> Daemon:
        """Start the program that plays the kubelets of made-up nodes."""
        return self._start(
            "kwok",
            [
                f"--kubeconfig={self.account('kwok')}",
                "--manage-all-nodes=false",
                "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
                f"--cidr={self.plan.kwok_pods}",
                f"--node-ip={self.plan.host}",
                "--node-lease-duration-seconds=40",
            ],
        )

    def wait_ready(self, needed: Sequence[Daemon]) -> None:
        """Wait until the API server says that it is ready, as long as what it needs runs."""
        context = ssl.create_default_context(cafile=str(self.authority))

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5, context=context):
                    return True
            except (urllib.error.URLError, OSError):
                return False

        wait_until("the API server is ready", ready, READY_S, needed)

    def _start_dns(self) -> Daemon:
        rules = self.folder / "Corefile"
        upstream = "  forward . /etc/resolv.conf\n" if Path("/etc/resolv.conf").exists() else ""
        rules.write_text(
            ".:53 {\n"
            f"  bind {self.plan.host}\n  errors\n"
            "  kubernetes cluster.local in-addr.arpa {\n"
            f"    kubeconfig {self.account('coredns')} headrace\n    ttl 1\n  }}\n"
            f"{upstream}}}\n"
        )
        return self._start("coredns", ["-conf", rules])

    def _start(self, name: str, argv: Sequence[str | Path]) -> Daemon:
        # Half of the collector's usual headroom: these processes share a small machine with the engines.
        return start(
            name, [self._tools / name, *argv], self.folder / f"logs/{name}.log", {"GOGC": "50"}
        )
