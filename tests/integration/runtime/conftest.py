from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from headrace.runtime.artifacts.config import ArtifactSettings
from headrace.runtime.artifacts.store import ArtifactStore, Fetch
from headrace.runtime.sidecar.metrics import RUNTIME_METRICS
from headrace.runtime.sidecar.process import web_session
from headrace.service.clock import RealClock
from headrace.service.telemetry import Telemetry
from tests.support.file_server import FileServer

Spawn = Callable[..., Awaitable[asyncio.subprocess.Process]]
MakeStore = Callable[..., ArtifactStore]


@pytest.fixture
async def server() -> AsyncIterator[FileServer]:
    async with FileServer() as running:
        yield running


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with web_session(4) as session:
        yield session


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    """Start a Python process; none outlives the test."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*words: str, **options: Any) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, **{"stdout": PIPE, "stderr": PIPE, **options}
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry(), RUNTIME_METRICS)


@pytest.fixture
def make_store(
    tmp_path: Path, web: aiohttp.ClientSession, telemetry: Telemetry, server: FileServer
) -> MakeStore:
    """Make a store over a cache of this test; settings by name."""

    def make(progress: Callable[[Fetch], None] | None = None, **told: object) -> ArtifactStore:
        values: dict[str, object] = {
            "cache_dir": tmp_path / "cache",
            "allow": (server.url, f"file://{tmp_path}/kept"),
            "part_bytes": 65_536,
            "parts": 4,
            "retry_first_s": 0.001,
            "retry_most_s": 0.01,
            "limit_s": 20.0,
        }
        settings = ArtifactSettings.model_validate({**values, **told})
        return ArtifactStore(settings, web, RealClock(), Random(1), telemetry, progress)

    return make
