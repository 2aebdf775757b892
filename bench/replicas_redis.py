"""Two processes that share reserves through a real Redis: how late, how dear, how soon warm.

Clocks of two processes are compared, which on Linux is sound: one monotonic clock for all.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from random import Random
from typing import Any, Final

from prometheus_client import CollectorRegistry
from typing_extensions import override

from gateway.sharing import Sharing, SharingOptions
from headrace.core.ids import BlockHash, EndpointId, RequestId
from headrace.service.clock import RealClock
from headrace.service.store_redis import RedisSettings, RedisStore
from headrace.service.telemetry import Telemetry
from headrace.twin.report import percentile
from router.reserve import ReplicaId, Reserve, ReserveSink

RATE_RPS: Final = 100.0
SPAN_S: Final = 20.0
BLOCKS: Final = 200
"""Routing blocks of a prompt of 12,800 tokens, about the mean of Mooncake's conversations."""

INFLIGHT: Final = 500
"""Requests in flight when another replica starts."""

STARTS: Final = 5
_LIMIT_S: Final = 30.0


def redis_binary() -> str | None:
    """Return the server's path, or None where it is not installed."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def redis_server(binary: str) -> Iterator[str]:
    """Run a server on a free port of loopback; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = subprocess.DEVNULL
    command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    server = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        until_s = time.monotonic() + _LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until_s:
                    raise
                time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def measure(binary: str) -> dict[str, float]:
    """Return the figures of both parts."""
    with redis_server(binary) as url:
        return asyncio.run(_delays(url)) | asyncio.run(_starts(url))


async def _delays(url: str) -> dict[str, float]:
    """One process sends at a steady rate; the other notes when each reserve was in its books."""
    sent_s: dict[str, float] = {}
    events = round(RATE_RPS * SPAN_S)
    async with _replica(url, "sender", _Books()) as sharing, _other("listen", url, events) as other:
        assert await _line(other) == {"ready": True}
        cpu_s = time.process_time()
        clock, rng = RealClock(), Random(1)
        due_s = clock.now_s()
        for number in range(events):
            due_s += rng.expovariate(RATE_RPS)
            await clock.sleep(max(0.0, due_s - clock.now_s()))
            request_id = f"r{number}"
            sent_s[request_id] = clock.now_s()
            sharing.on_dispatched(_reserve(request_id, sent_s[request_id]))
            if number >= INFLIGHT:  # as many end as begin
                over = RequestId(f"r{number - INFLIGHT}")
                sharing.on_first_token(over, clock.now_s())
                sharing.on_released(over, clock.now_s())
        sender_cpu_s = time.process_time() - cpu_s
        heard = await _line(other)
    delays_s = sorted(heard["applied_s"][name] - at_s for name, at_s in sent_s.items())
    return {
        "redis.requests": events,
        "redis.dispatch_to_apply_p50_s": percentile(delays_s, 0.50),
        "redis.dispatch_to_apply_p99_s": percentile(delays_s, 0.99),
        "redis.dispatch_to_apply_max_s": delays_s[-1],
        "redis.sender_cpu_us_per_request": sender_cpu_s / events * 1e6,
        "redis.receiver_cpu_us_per_request": heard["cpu_s"] / events * 1e6,
    }


async def _starts(url: str) -> dict[str, float]:
    """One process has requests in flight; another starts until it knows of them all."""
    process_s: list[float] = []
    sharing_s: list[float] = []
    async with _replica(url, "keeper", _Books()) as sharing:
        now_s = RealClock().now_s()
        for number in range(INFLIGHT):
            sharing.on_dispatched(_reserve(f"k{number}", now_s))
        for _ in range(STARTS):
            started_s = time.monotonic()
            async with _other("start", url, INFLIGHT) as other:
                warm = await _line(other)
            process_s.append(warm["warm_s"] - started_s)
            sharing_s.append(warm["warm_s"] - warm["began_s"])
    return {
        "redis.start_inflight_requests": INFLIGHT,
        "redis.process_start_to_warm_max_s": max(process_s),
        "redis.sharing_start_to_warm_max_s": max(sharing_s),
    }


def _reserve(request_id: str, now_s: float) -> Reserve:
    blocks = tuple(BlockHash(hash((request_id, i)) & (2**64 - 1)) for i in range(BLOCKS))
    return Reserve(
        RequestId(request_id), EndpointId("engine-0"), 9_000.0, 13_000.0, now_s, blocks=blocks
    )


class _Books(ReserveSink):
    """Notes when it heard of each request, and calls back when there are so many."""

    def __init__(self, count: int = 0) -> None:
        self.applied_s: dict[str, float] = {}
        self.full = asyncio.Event()
        self._count = count

    @override
    def late(self, most_s: float) -> None:
        pass

    @override
    def remote_dispatched(self, replica: ReplicaId, reserve: Reserve) -> None:
        self.applied_s[reserve.request_id] = time.monotonic()
        if len(self.applied_s) == self._count:
            self.full.set()

    @override
    def remote_first_token(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        pass

    @override
    def remote_released(self, replica: ReplicaId, request_id: RequestId, now_s: float) -> None:
        pass

    @override
    def remote_lost(self, replica: ReplicaId, now_s: float) -> None:
        pass


@asynccontextmanager
async def _replica(url: str, name: str, books: _Books) -> AsyncIterator[Sharing]:
    clock = RealClock()
    telemetry = Telemetry(CollectorRegistry())
    store = RedisStore(RedisSettings(url), clock, telemetry, Random(1))
    options = SharingOptions(ReplicaId(name), time.monotonic_ns())
    sharing = Sharing(options, store, books, clock, telemetry)
    tasks = [asyncio.create_task(store.run()), asyncio.create_task(sharing.run())]
    try:
        async with asyncio.timeout(_LIMIT_S):
            await store.ready()
        yield sharing
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def _other(part: str, url: str, count: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.replicas_redis", part, url, str(count)),
        stdout=asyncio.subprocess.PIPE,
        limit=16 << 20,
    )
    try:
        yield process
        async with asyncio.timeout(_LIMIT_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(_LIMIT_S + SPAN_S):
        while True:
            line = await process.stdout.readline()
            if not line:
                raise RuntimeError("the other process ended")
            if line.startswith(b"{"):  # the log goes to the same place
                found: dict[str, Any] = json.loads(line)
                return found


async def _part(part: str, url: str, count: int) -> None:
    """Be the other process."""
    began_s = time.monotonic()
    books = _Books(count)
    async with _replica(url, f"{part}-{began_s}", books):
        if part == "listen":
            print(json.dumps({"ready": True}), flush=True)
            cpu_s = time.process_time()
            await asyncio.wait_for(books.full.wait(), _LIMIT_S + SPAN_S)
            spent_s = time.process_time() - cpu_s
            print(json.dumps({"applied_s": books.applied_s, "cpu_s": spent_s}), flush=True)
        else:
            await asyncio.wait_for(books.full.wait(), _LIMIT_S)
            warm_s = max(books.applied_s.values())
            print(json.dumps({"began_s": began_s, "warm_s": warm_s}), flush=True)


if __name__ == "__main__":
    asyncio.run(_part(sys.argv[1], sys.argv[2], int(sys.argv[3])))
