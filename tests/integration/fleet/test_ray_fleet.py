from __future__ import annotations

import asyncio
import socket

import pytest

from controller.fleets.config import FleetSettings
from headrace.core.errors import ConfigError


@pytest.mark.filterwarnings("ignore")
async def test_a_fleet_without_a_cluster_says_so_at_once() -> None:
    pytest.importorskip("ray")
    from controller.fleets.ray.fleet import RayFleet

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = FleetSettings.model_validate({"kind": "ray", "ray": {"address": address}})
        fleet = RayFleet(settings)
        async with asyncio.timeout(20):
            with pytest.raises(ConfigError, match=r"no Ray cluster answers at .*ray start --head"):
                await fleet.start()
            await fleet.stop()
    assert fleet.source.endpoints() == []
