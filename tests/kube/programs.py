"""The programs that a real cluster is made of: where they are, and what is missing to run one."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from tests.kube.processes import CommandFailed, run

ROOT = Path(__file__).resolve().parents[2]
INSTALL = Path(__file__).with_name("install-tools")
PROGRAMS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"),
    *("kubelet", "kubectl", "coredns", "kwok", "pause"),
)
SYSTEM = ("containerd", "runc", "iptables", "ip", "nsenter", "unshare", "openssl")
CNI_PLUGINS = Path("/usr/lib/cni")


def tools_dir() -> Path:
    """Return the folder that the built programs are in, or would be in."""
    return Path(run([INSTALL, "--where"]).strip())


def cache_dir() -> Path:
    """Return the folder for what all versions of the tools share: images, the base root file system."""
    return tools_dir().parent


def unable() -> str | None:
    """Say why this machine can never run a cluster of its own, whatever is installed."""
    if os.geteuid() != 0:
        return "a cluster of real containers needs root"
    if not Path("/sys/fs/cgroup/memory").is_dir():
        return "the cluster's nodes need cgroup v1"
    if shutil.which("go") is None:
        return "the cluster's programs are built with Go, which is not installed"
    try:
        run(["unshare", "--net", "--mount", "--pid", "--fork", "true"])
    except (CommandFailed, OSError):
        return "the cluster's nodes need namespaces, which may not be made here"
    return None


def missing() -> str | None:
    """Say what has still to be installed or built for a cluster of its own; None when nothing."""
    without = [name for name in SYSTEM if shutil.which(name) is None]
    without += [] if (CNI_PLUGINS / "bridge").exists() else ["containernetworking-plugins"]
    if without:
        return f"not installed: {', '.join(without)}"
    unbuilt = [name for name in PROGRAMS if not (tools_dir() / name).exists()]
    return f"not built: {', '.join(unbuilt)} (run tests/kube/install-tools)" if unbuilt else None


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
