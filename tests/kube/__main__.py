"""``python -m tests.kube up|load|status|down``: a real Kubernetes cluster on this machine."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.kube.cluster import STATE, Cluster
from tests.kube.programs import missing, unable

FOLDER = Path(tempfile.gettempdir()) / "headrace-kube"


def main() -> int:
    """Run the command; return the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.kube", description=__doc__)
    parser.add_argument("command", choices=["up", "load", "status", "down"])
    parser.add_argument("images", type=Path, nargs="*", help="for load: image archives")
    parser.add_argument("--dir", type=Path, default=FOLDER, help="where the cluster lives")
    parser.add_argument("--nodes", type=int, default=1, help="real nodes")
    parser.add_argument("--kubeconfig", type=Path, help="also write the administrator's here")
    parser.add_argument("--keep-logs", action="store_true", help="leave the logs when it goes down")
    chosen = parser.parse_intermixed_args()
    if chosen.command == "up":
        return _up(chosen.dir, chosen.nodes, chosen.kubeconfig)
    if not (chosen.dir / STATE).exists():
        print(f"no cluster in {chosen.dir}")  # noqa: T201
        return 0 if chosen.command == "down" else 1
    cluster = Cluster.attach(chosen.dir)
    if chosen.command == "down":
        cluster.down(keep_logs=chosen.keep_logs)
        return 0
    if chosen.command == "load":
        for archive in chosen.images:
            cluster.load_image(archive.resolve())
        return 0
    return _status(cluster)


def _up(folder: Path, nodes: int, kubeconfig: Path | None) -> int:
    lacking = unable() or missing()
    if lacking:
        print(lacking, file=sys.stderr)  # noqa: T201
        return 1
    if (folder / STATE).exists():
        Cluster.attach(folder).down()
    began_s = time.monotonic()
    cluster = Cluster.up(folder, nodes)
    if kubeconfig:
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_bytes(cluster.kubeconfig.read_bytes())
    print(f"up in {time.monotonic() - began_s:.1f} s: {cluster.kubeconfig}")  # noqa: T201
    return 0


def _status(cluster: Cluster) -> int:
    resident = cluster.rss_bytes()
    for name, size in resident.items():
        print(f"{name:32} {size / 2**20:7.0f} MiB")  # noqa: T201
    print(f"{'total':32} {sum(resident.values()) / 2**20:7.0f} MiB resident")  # noqa: T201
    dead = cluster.dead()
    if dead:
        print(f"not running: {', '.join(dead)}")  # noqa: T201
    print(f"kubeconfig: {cluster.kubeconfig}")  # noqa: T201
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
