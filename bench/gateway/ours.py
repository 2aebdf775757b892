"""The gateway as `headrace up` runs it, over fixed endpoints: default policy, metrics, log line.

``python -m bench.gateway.ours PORT URL [URL ...]``
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from bench.gateway.bodies import MODEL
from gateway.config import GatewaySettings
from gateway.process import run_gateway
from headrace.core.endpoint import EndpointView
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.discovery import StaticSource
from headrace.service.lines import JsonLines
from router.catalog import DEFAULT_POLICY
from router.router import Options, Router


async def main(port: int, urls: list[str]) -> None:
    """Serve until asked to stop."""
    views = [
        EndpointView(EndpointId(f"engine-{i}"), url, (ModelName(MODEL),))
        for i, url in enumerate(urls)
    ]
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = GatewaySettings(host="127.0.0.1", port=port)
    router = Router(DEFAULT_POLICY, Options(seed=1))
    source, lines = StaticSource(views), JsonLines(sys.stdout.buffer)
    await run_gateway(settings, router, source, ready=_ready, stop=stop, lines=lines)


def _ready(url: str) -> None:
    print(url, file=sys.stderr)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2:]))
