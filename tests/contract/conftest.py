from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from controller.fleets.config import FleetSettings
from headrace.core.endpoint import KvEventSource
from headrace.runtime.client import ClientLimits, EngineClient
from headrace.service.http import HttpLimits, make_session
from headrace.service.settings import load_settings
from tests.support.fleet_thread import FleetThread
from tests.support.vllm_env import make_model, require_vllm

CONTEXT_TOKENS = 2_048


@dataclass(frozen=True, slots=True)
class Engine:
    """One running engine to hold against the contract."""

    url: str
    model: str
    block_tokens: int
    kv_events: KvEventSource


def simulated() -> FleetSettings:
    return load_settings(
        FleetSettings,
        None,
        {
            "replicas": 1,
            "served_name": "small",
            "time_scale": 4.0,
            "simulated.hardware": "L4",
            "simulated.max_model_len": CONTEXT_TOKENS,
            "simulated.block_size": 32,
            "simulated.num_blocks": 256,
        },
    )


def vllm(model: Path) -> FleetSettings:
    return load_settings(
        FleetSettings,
        None,
        {
            "engine": "vllm",
            "model": str(model),
            "replicas": 1,
            "max_model_tokens": CONTEXT_TOKENS,
            "kv_cache_bytes": 128 << 20,
            # In bf16 a prompt found in the cache and one computed need not give equal tokens.
            "engine_args": ["--dtype", "float32"],
            "env": {"HF_HUB_OFFLINE": "1"},
        },
    )


@pytest.fixture(scope="session", params=["simulated", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Return each kind of engine in turn, running for the whole session."""
    if request.param == "vllm":
        require_vllm(request)
        settings, ready_s = vllm(make_model()), 180.0
    else:
        settings, ready_s = simulated(), 30.0
    with FleetThread(settings, ready_s) as fleet:
        (view,), (unit,) = fleet.endpoints(), fleet.status()
        yield Engine(view.url, view.models[0], 32, unit.kv_events[0])


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with make_session(HttpLimits()) as session:
        yield session


@pytest.fixture
def client(http: aiohttp.ClientSession, engine: Engine) -> EngineClient:
    return EngineClient(http, engine.url, ClientLimits(timeout_s=10))
