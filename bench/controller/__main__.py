"""`make bench-controller`: 500 services of 5,000 pods on a real API server, made-up nodes."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import uvloop
from rich.console import Console

from bench.controller import report
from bench.controller.counts import Counting
from bench.controller.ground import PODS_PER_NODE, prepare, writes_served
from bench.controller.phases import Bench, Changed, change, converge, rest, restart
from bench.controller.seen import Seen
from bench.gateway.process import Child, free_port
from bench.result import Result, version_of, write_result
from controller.config import ControllerSettings
from headrace.service.kube.api import ApiLimits
from headrace.service.kube.connect import open_api
from headrace.service.kube.resource import Key
from headrace.service.kube.writes import Writes
from tests.kube.cluster import Cluster, running_cluster
from tests.kube.programs import missing

SEED: Final = 1
NAMESPACES: Final = 8
SERVICES: Final = 500
REPLICAS: Final = 10
MADE_PER_S: Final = 50.0
REST_S: Final = 60.0
SCALED: Final = 80
"""Services scaled up by one, and down again."""

ROLLED: Final = 40
"""Services whose arguments are changed: each change exchanges all replicas, one at a time."""

SCALE_GAP_S: Final = 0.5
ROLL_GAP_S: Final = 2.0
LIMITS: Final = ApiLimits(connections=128, connect_s=120.0, answer_s=120.0)


@dataclass(slots=True)
class Stage:
    """A controller that runs on a cluster, and can be replaced by another."""

    cluster: Cluster
    kubeconfig: Path
    stack: AsyncExitStack
    starts: int = 0
    child: Child | None = None
    ends: AsyncExitStack | None = None

    async def start(self) -> Counting:
        """Start a controller with default settings, but for the lease: nobody else is there."""
        port = free_port()
        argv = [sys.executable, "-m", "headrace.cli", "controller", "--no-lease"]
        argv += ["--kubeconfig", str(self.kubeconfig), "--image", "headrace:bench"]
        argv += ["--host", "127.0.0.1", "--port", str(port)]
        log = self.cluster.folder / f"logs/controller-{self.starts}.log"
        self.starts += 1
        self.ends = await self.stack.enter_async_context(AsyncExitStack())
        self.child = self.ends.enter_context(Child("controller", argv, log, core=None))
        return Counting(self.cluster, self.child, f"http://127.0.0.1:{port}")

    async def stop(self) -> None:
        """Ask it to stop."""
        assert self.ends is not None
        await self.ends.aclose()


async def measure(
    cluster: Cluster, services: int, console: Console, *, storm_only: bool
) -> dict[str, float]:
    """Run every phase, or none that the storm can do without; return the figures."""
    keys = [(f"bench-{index % NAMESPACES}", f"service-{index}") for index in range(services)]
    nodes = -(-services * REPLICAS // PODS_PER_NODE)
    figures: dict[str, float] = {
        "setup.services": services,
        "setup.pods": services * REPLICAS,
        "setup.nodes": nodes,
        "setup.writes_per_s": ControllerSettings().writes_per_s,
        "setup.workers": ControllerSettings().workers,
    }

    def found(more: Mapping[str, float]) -> None:
        figures.update(more)
        for name, value in more.items():
            console.print(f"{name:48} {value:12,.4g}")

    kubeconfig = prepare(cluster, nodes, sorted({key[0] for key in keys}))
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(await open_api(cluster.kubeconfig, limits=LIMITS))
        seen = Seen(api)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for watch in seen.tasks():
            stack.callback(group.create_task(watch).cancel)
        await seen.synced()
        making = Writes(api, MADE_PER_S, 1, most_wait_s=600.0)
        bench = Bench(api, making, Writes(api, 10_000.0, 10_000), seen, Random(SEED))
        stage = Stage(cluster, kubeconfig, stack)
        await _phases(bench, stage, keys, found, storm_only=storm_only)
    return figures


async def _phases(
    bench: Bench, stage: Stage, keys: list[Key], found: Any, *, storm_only: bool
) -> None:
    counting = await stage.start()
    assert stage.child is not None
    await asyncio.to_thread(stage.child.wait_ready, f"{counting.url}/readyz")
    found({"setup.rss_mib": stage.child.rss_bytes() / report.MIB})
    found(report.converged(await converge(bench, counting, keys, REPLICAS)))
    found({"converge.rss_mib": stage.child.rss_bytes() / report.MIB})
    if not storm_only:
        found(report.rested(await rest(bench, counting, REST_S)))
        found(report.changed(await _changes(bench, counting, keys)))
    storm = await change(bench, counting, keys, lambda _: {"spec": {"replicas": 11}}, 0.0)
    found(report.storm(storm))
    sums = await counting.now()
    found({"all.writes": sums.writes, "all.writes_served": sums.served})
    found({"all.rss_mib": stage.child.rss_bytes() / report.MIB, "all.cpu_s": sums.cpu_s})
    await stage.stop()
    if storm_only:
        return
    served = await asyncio.to_thread(writes_served, stage.cluster)
    found(report.restarted(await restart(bench, stage.start, served, REST_S)))
    found({"restart.rss_mib": stage.child.rss_bytes() / report.MIB})
    await stage.stop()


async def _changes(bench: Bench, counting: Counting, keys: list[Key]) -> dict[str, Changed]:
    chosen = bench.rng.sample(keys, min(SCALED + ROLLED, len(keys) // 2))
    scaled, rolled = chosen[ROLLED:], chosen[:ROLLED]
    more = {"spec": {"replicas": REPLICAS + 1}}
    fewer = {"spec": {"replicas": REPLICAS}}
    args = {"spec": {"engine": {"args": ["--set", "engine.max_num_seqs=65"]}}}
    return {
        "scale_up": await change(bench, counting, scaled, lambda _: more, SCALE_GAP_S),
        "scale_down": await change(bench, counting, scaled, lambda _: fewer, SCALE_GAP_S),
        "rollout": await change(bench, counting, rolled, lambda _: args, ROLL_GAP_S),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.controller", description=__doc__)
    parser.add_argument("--services", type=int, default=SERVICES, help="other numbers: not kept")
    parser.add_argument("--storm", action="store_true", help="this phase only: not kept")
    given = parser.parse_args()
    services = given.services
    lacking = missing()
    if lacking:
        print(lacking, file=sys.stderr)
        return 1
    console = Console()
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder) / "kube", 0) as it:
        figures = uvloop.run(measure(it, services, console, storm_only=given.storm))
    if services == SERVICES and not given.storm:
        write_result(
            Result(
                name="controller",
                question="What does the controller cost with 500 services of 5,000 pods, how fast "
                "does it act, and is it quiet when nothing is asked?",
                command="make bench-controller",
                figures=figures,
                goals=report.GOALS,
                versions={"aiohttp": version_of("aiohttp"), "orjson": version_of("orjson")},
                seeds=(SEED,),
                notes=report.NOTES,
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
