from __future__ import annotations

import os
import signal
from typing import Any

import psutil

from tests.e2e.ray.conftest import Figures, Start
from tests.e2e.ray.machines import Machines, engines, eventually
from tests.e2e.ray.up import Traffic, Up

MODEL = "Llama-3.1-8B"
AGAIN_S = 120.0
FLEET: dict[str, Any] = {"replicas": 2, "ray": {"cards_per_node": 2}}
"""A replica fills a node, so that two of them are on different ones."""


def count(traffic: Traffic, figures: Figures) -> None:
    figures["requests.served"] += traffic.served
    figures["requests.failed"] += len(traffic.failures)
    assert traffic.failures == []
    assert traffic.served > 0


def again(up: Up, replica: str, pid: int) -> float:
    """Wait until another process serves for that replica and all others serve too."""
    fleet, index, _ = replica.rsplit("-", 2)

    def back() -> bool:
        mine = [
            new
            for name, new in up.ready().items()
            if name.rsplit("-", 2)[:2] == [fleet, index] and new != pid
        ]
        return bool(mine) and len(up.serving()) >= 2

    return eventually(back, AGAIN_S, up.tail)


def test_a_killed_engine_is_started_again_in_place(start: Start, figures: Figures) -> None:
    up = start(FLEET)
    up.wait_ready(2)
    eventually(lambda: len(up.ready()) == 2, 10, up.tail)
    replica, pid = sorted(up.ready().items())[0]
    with Traffic(up, MODEL) as traffic:
        os.kill(pid, signal.SIGKILL)
        figures["engine_killed.serving_again_s"] = again(up, replica, pid)
    count(traffic, figures)
    assert replica in up.ready(), "the same supervisor started it"


def test_a_killed_supervisor_takes_its_engine_along_and_both_are_made_anew(
    start: Start, figures: Figures
) -> None:
    up = start(FLEET)
    up.wait_ready(2)
    eventually(lambda: len(up.ready()) == 2, 10, up.tail)
    replica, pid = sorted(up.ready().items())[0]
    spawner = psutil.Process(pid).parent()
    assert spawner is not None
    supervisor = spawner.parent()
    assert supervisor is not None
    assert "Supervisor" in " ".join(supervisor.cmdline())
    with Traffic(up, MODEL) as traffic:
        supervisor.kill()
        _, orphans = psutil.wait_procs([spawner], timeout=10)
        figures["supervisor_killed.orphans"] = len(orphans) + int(pid in engines())
        figures["supervisor_killed.serving_again_s"] = again(up, replica, pid)
    count(traffic, figures)
    assert not orphans
    assert pid not in engines()


def test_a_replica_on_a_killed_node_is_made_anew_on_another(
    machines: Machines, start: Start, figures: Figures
) -> None:
    up = start(FLEET)
    up.wait_ready(2)
    eventually(lambda: len(up.ready()) == 2, 10, up.tail)
    replica, pid = sorted(up.ready().items())[0]
    (node,) = machines.groups()[replica]
    machines.add()
    with Traffic(up, MODEL) as traffic:
        machines.kill(machines.node_of(node))
        figures["node_killed.serving_again_s"] = again(up, replica, pid)
    count(traffic, figures)
    assert node not in {each for (each,) in machines.groups().values()}


def test_a_replica_of_two_nodes_is_made_anew_when_either_is_killed(
    machines: Machines, start: Start, figures: Figures
) -> None:
    up = start({"replicas": 1, "nodes": 2, "ray": {"cards_per_node": 2}})
    up.wait_ready(1)
    eventually(lambda: len(up.ready()) == 1, 10, up.tail)
    ((replica, pid),) = up.ready().items()
    first, second = machines.groups()[replica]
    machines.add()
    machines.kill(machines.node_of(second))

    def back() -> bool:
        return any(name != replica for name in up.ready()) and len(up.serving()) == 1

    figures["member_node_killed.serving_again_s"] = eventually(back, AGAIN_S, up.tail)
    ((_, shares),) = machines.groups().items()
    assert first in shares
    assert second not in shares
    assert pid not in engines()
    assert up.ask(MODEL)


def test_a_driver_that_comes_back_takes_over_the_same_engines(
    machines: Machines, start: Start, figures: Figures
) -> None:
    up = start(FLEET)
    up.wait_ready(2)
    before, supervisors = engines(), machines.supervisors()
    up.crash()
    assert engines() == before
    back = start(FLEET)
    figures["driver_killed.serving_again_s"] = back.wait_ready(2)
    with Traffic(back, MODEL) as traffic:
        eventually(lambda: traffic.served > 10, 30, back.tail)
    count(traffic, figures)
    figures["driver_killed.engines_kept_ratio"] = len(set(before) & set(engines())) / len(before)
    assert engines() == before
    assert machines.supervisors() == supervisors


def test_changed_settings_replace_replicas_without_a_failed_request(
    machines: Machines, start: Start, figures: Figures
) -> None:
    up = start({**FLEET, "ray": {"cards_per_node": 1, "cpus_per_node": 0.5}})
    up.wait_ready(2)
    old = set(machines.supervisors())
    up.crash()
    changed = start({**FLEET, "seed": 1, "ray": {"cards_per_node": 1, "cpus_per_node": 0.5}})
    changed.wait_ready(2)
    assert len(old & set(machines.supervisors())) == 2, "they serve until new ones do"
    with Traffic(changed, MODEL) as traffic:
        figures["settings_changed.replaced_s"] = eventually(
            lambda: not old & set(machines.supervisors()), AGAIN_S, changed.tail
        )
    count(traffic, figures)
    assert len(machines.supervisors()) == 2
