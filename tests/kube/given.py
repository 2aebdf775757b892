"""The cluster that a test runs on: the one that KUBECONFIG names, or one of this machine's own."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.kube.cluster import KUBECTL_LIMIT_S, running_cluster
from tests.kube.processes import run
from tests.kube.programs import missing, tools_dir, unable

# A command that gives an image archive to the nodes of the cluster that KUBECONFIG names, such as
# "kind load image-archive"; the archive's path is put behind it.
LOAD_COMMAND = "HEADRACE_KUBE_LOAD"


class AnyCluster(Protocol):
    """What a test may ask of every cluster."""

    @property
    def kubeconfig(self) -> Path: ...

    def kubectl(
        self, *argv: str, stdin: str | None = None, limit_s: float = KUBECTL_LIMIT_S
    ) -> str: ...

    def load_image(self, archive: Path) -> None: ...


class GivenCluster:
    """A cluster that was there before the tests: nothing is started, stopped or taken down."""

    def __init__(self, kubeconfig: Path, load: str | None) -> None:
        self.kubeconfig = kubeconfig
        self._load = load

    def kubectl(
        self, *argv: str, stdin: str | None = None, limit_s: float = KUBECTL_LIMIT_S
    ) -> str:
        """Run kubectl with the rights that the kubeconfig gives; return what it printed."""
        program = shutil.which("kubectl") or tools_dir() / "kubectl"
        return run([program, f"--kubeconfig={self.kubeconfig}", *argv], stdin, limit_s)

    def load_image(self, archive: Path) -> None:
        """Give an image to the nodes, if we were told how; skip the test otherwise."""
        if self._load is None:
            pytest.skip(f"{LOAD_COMMAND} does not say how the cluster gets {archive.name}")
        run([*shlex.split(self._load), archive])


def require_cluster_support(request: pytest.FixtureRequest, env: Mapping[str, str]) -> None:
    """Skip by name where a cluster is not asked for or cannot be had.

    With CI=true a cluster that could be had and is not is a failure, with HEADRACE_REQUIRE_KUBE=1
    also one that cannot be had on this machine.
    """
    if "kube" not in request.config.option.markexpr:
        pytest.skip("needs a Kubernetes cluster: run `make e2e-kube`")
    if env.get("KUBECONFIG"):
        return
    why = unable()
    if why is not None and env.get("HEADRACE_REQUIRE_KUBE") != "1":
        pytest.skip(why)
    why = why or missing()
    if why is None:
        return
    if env.get("HEADRACE_REQUIRE_KUBE") == "1" or env.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@contextmanager
def some_cluster(request: pytest.FixtureRequest, nodes: int = 1) -> Iterator[AnyCluster]:
    """Yield the cluster that KUBECONFIG names, or one that is made and taken down here."""
    require_cluster_support(request, os.environ)
    named = os.environ.get("KUBECONFIG")
    if named:
        yield GivenCluster(Path(named), os.environ.get(LOAD_COMMAND))
        return
    with (
        tempfile.TemporaryDirectory(prefix="hrkube-") as folder,
        running_cluster(Path(folder, "cluster"), nodes) as cluster,
    ):
        yield cluster
