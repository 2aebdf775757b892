"""The control groups (version 1) that a cluster's pods run in: one tree per node.

The kubelet also makes its groups in the hierarchy of version 2 that is mounted beside: ``unified``.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from tests.kube.processes import wait_until

HIERARCHIES = Path("/sys/fs/cgroup")
EMPTY_S = 10.0


def _hierarchies() -> list[Path]:
    return [path for path in HIERARCHIES.iterdir() if path.is_dir() and not path.is_symlink()]


def make(name: str) -> None:
    """Make a group in every hierarchy; it may use all processors and memory."""
    for hierarchy in _hierarchies():
        group = hierarchy
        for part in Path(name).parts:
            group = group / part
            group.mkdir(exist_ok=True)
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (group / file).exists() and not (group / file).read_text().strip():
                    (group / file).write_text((group.parent / file).read_text())


def remove(name: str) -> None:
    """Remove a group and all groups in it, once their processes have ended."""
    for hierarchy in _hierarchies():
        top = hierarchy / name
        if top.is_dir():
            wait_until(f"{top} is empty", partial(_removed, top), EMPTY_S)


def _removed(top: Path) -> bool:
    try:
        for folder, _, _ in os.walk(top, topdown=False):
            os.rmdir(folder)
    except OSError:
        return False
    return True
