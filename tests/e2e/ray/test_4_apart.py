"""Gateways that run apart from who keeps the fleet, and find its engines on Ray."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.ray.conftest import Figures, Start
from tests.e2e.ray.machines import Machines, eventually
from tests.e2e.ray.up import Up
from tests.support.serving_command import Serving, start_serving
from tests.support.streams import Streams

MODEL = "Llama-3.1-8B"
TOKENS = 100
AGAIN_S = 120.0
FLEET: dict[str, Any] = {"replicas": 2, "ray": {"cards_per_node": 1, "cpus_per_node": 0.5}}


@pytest.fixture
def gateways(machines: Machines, tmp_path: Path) -> Iterator[list[Serving]]:
    """Return a list for gateways over the cluster, which are ended in the end."""
    running: list[Serving] = []
    yield running
    for gateway in running:
        gateway.close()


def follow(machines: Machines, folder: Path, index: int) -> Serving:
    return start_serving(
        *("gateway", "--ray", machines.address, "--fleet-name", "headrace", "--port", "0"),
        log=folder / f"gateway-{index}.log",
        until="Ctrl-C stops the gateway",
    )


def test_gateways_apart_lose_nothing_while_the_fleet_is_rolled_shrunk_and_stopped(
    machines: Machines,
    start: Start,
    figures: Figures,
    gateways: list[Serving],
    tmp_path: Path,
) -> None:
    keeper = start(FLEET, "fleet")
    gateways += [follow(machines, tmp_path, index) for index in range(2)]
    keeper.wait_ready(2)
    old = set(machines.supervisors())
    with Streams([gateway.url for gateway in gateways], MODEL, TOKENS) as streams:
        streams.until_whole(3)

        keeper.crash()
        before = sum(streams.whole.values())
        streams.until_whole(10)
        figures["apart.served_without_keeper"] = sum(streams.whole.values()) - before

        keeper = start({**FLEET, "seed": 1}, "fleet")
        figures["apart.rolled_s"] = eventually(
            lambda: not old & set(machines.supervisors()), AGAIN_S, keeper.tail
        )
        streams.until_whole(3)

        keeper.crash()
        keeper = start({**FLEET, "seed": 1, "replicas": 1}, "fleet")
        figures["apart.shrunk_s"] = eventually(
            lambda: len(machines.supervisors()) == 1, AGAIN_S, keeper.tail
        )
        streams.until_whole(3)

        # With one replica nothing hides a gateway that does not know the new one yet.
        keeper.crash()
        old = set(machines.supervisors())
        keeper = start({**FLEET, "seed": 2, "replicas": 1}, "fleet")
        figures["apart.only_one_rolled_s"] = eventually(
            lambda: not old & set(machines.supervisors()), AGAIN_S, keeper.tail
        )
        streams.until_whole(3)
        figures["apart.failed"] = len(streams.refused)
        assert streams.refused == []

        stop(keeper, streams)
    figures["apart.served"] = sum(streams.whole.values())
    figures["apart.cut_streams"] = len(streams.cut)
    assert streams.cut == []
    assert all("503 " in text for text in streams.refused), streams.refused[0]


def stop(keeper: Up, streams: Streams) -> None:
    """Press Ctrl-C at the keeper, and go on asking until it has ended."""
    keeper.process.send_signal(signal.SIGINT)
    eventually(lambda: bool(streams.refused), AGAIN_S, keeper.tail)
    assert keeper.process.poll() is None, "it waits for the streams that it let go on"
    keeper.process.wait(AGAIN_S)
