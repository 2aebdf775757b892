"""Events that get lost between real engines and a gateway, an engine that dies, two hash algorithms.

The gateway runs in the test, so that its router can be looked at. It serves the two workers of the
running command and one more, which hashes as vLLM does by default.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import aiohttp
import pytest

from controller.fleets.config import FleetSettings
from gateway.config import GatewaySettings
from gateway.process import run_gateway
from headrace.core.endpoint import BlockScheme, EndpointView, Speed
from headrace.core.ids import EndpointId
from headrace.runtime.discovery import StaticSource
from headrace.service.clock import RealClock
from headrace.service.settings import load_settings
from kvcache.index import PrefixIndex
from kvcache.shell.subscriber import Subscriber
from router.router import Router
from tests.e2e.vllm.conftest import STALL_S, Figures
from tests.e2e.vllm.relay import Relay, relayed
from tests.e2e.vllm.stack import MODEL, SETTINGS, Stack
from tests.e2e.vllm.talks import Talk, Turn
from tests.support.fleet_index import FleetIndex
from tests.support.fleet_thread import FleetThread
from tests.support.kv_events import running

pytestmark = pytest.mark.vllm

TALKS = 6
WORDS = 60
BLOCK_TOKENS = 32
LOOK_S = 0.02
SETTLE_S = 20.0
KILLED = EndpointId("default-hash")


@pytest.fixture(scope="module")
def third(stack: Stack) -> Iterator[FleetThread]:
    """Return a fleet of one worker that hashes its blocks by vLLM's default."""
    fleet = SETTINGS["fleet"]
    algorithm = ["--prefix-caching-hash-algo", "sha256"]
    settings = {
        **fleet,
        "engine": "vllm",
        "model": str(stack.model),
        "replicas": 1,
        "engine_args": [*fleet["engine_args"], *algorithm],
    }
    with FleetThread(load_settings(FleetSettings, None, settings), 180) as running_fleet:
        yield running_fleet


@dataclass(frozen=True, slots=True)
class Watched:
    """A gateway behind lossy links, and an observer of the same engines behind none."""

    url: str
    router: Router
    relays: Sequence[Relay]
    views: Sequence[EndpointView]
    truth: FleetIndex
    http: aiohttp.ClientSession

    def knows_all(self) -> bool:
        """Whether the router knows the very blocks of every engine that the observer knows."""
        known: dict[EndpointId, set[int]] = {}
        for saved in self.router.prefixes.snapshot().values():
            index = PrefixIndex()
            index.restore(saved)
            for endpoint_id in index.endpoints():
                pieces = index.held_by(endpoint_id)
                known[endpoint_id] = {name for _, names in pieces for name in names}
        held = {view.endpoint_id: self.truth.held_by(view.endpoint_id) for view in self.views}
        return all(held.values()) and known == held

    async def take(self, talks: Sequence[Talk]) -> list[Turn]:
        """Take a turn of each talk, three at a time."""
        free = asyncio.Semaphore(3)

        async def one(talk: Talk) -> Turn:
            async with free:
                return await talk.turn(self.http, self.url)

        return await asyncio.gather(*map(one, talks))

    async def total(self, counter: str) -> int:
        """Return a counter of the gateway's metrics page."""
        async with self.http.get(self.url + "/metrics") as reply:
            page = await reply.text()
        found = re.search(rf"^{counter} (\S+)$", page, re.MULTILINE)
        return int(float(found.group(1))) if found else 0

    async def nudge(self) -> None:
        """Have every engine publish a batch, by a prompt that nobody else asks for."""
        for view in self.views:
            prompt = [Random(time.monotonic_ns()).randrange(300, 2_000) for _ in range(64)]
            body = {"model": MODEL, "prompt": prompt, "max_tokens": 1}
            async with self.http.post(view.url + "/v1/completions", json=body) as reply:
                assert reply.status == 200


@pytest.fixture
async def watched(
    request: pytest.FixtureRequest, stack: Stack, third: FleetThread
) -> AsyncIterator[Watched]:
    """Return a gateway, behind relays unless the test's parameter says otherwise."""
    direct = getattr(request, "param", None) == "direct"
    ((more,), (unit,)) = third.endpoints(), third.status()
    views = [
        *stack.views(),
        replace(more, endpoint_id=KILLED, kv_events=unit.kv_events[0]),
    ]
    views = [replace(view, files=(stack.files,), load=None, speed=Speed()) for view in views]
    truth = FleetIndex()
    observer = Subscriber(truth, clock=RealClock())
    observer.follow(views)
    router, ready, stop = Router(), asyncio.get_running_loop().create_future(), asyncio.Event()
    settings = GatewaySettings.model_validate(
        {"port": 0, "log_requests": False, "drain_s": 1.0, "tokens": {"limit_ms": 1_000}}
    )
    async with (
        aiohttp.ClientSession() as http,
        relayed([] if direct else views) as (behind, relays),
        running(observer.run()),
        running(
            run_gateway(
                settings, router, StaticSource(behind or views), ready=ready.set_result, stop=stop
            )
        ),
    ):
        async with asyncio.timeout(SETTLE_S):
            url = await ready
        watched = Watched(url, router, relays, views, truth, http)
        await watched.nudge()
        await eventually(watched.knows_all)
        yield watched


async def eventually(holds: Callable[[], bool]) -> float:
    """Look until something holds that nobody announces; return the seconds it took."""
    started_s = time.monotonic()
    async with asyncio.timeout(SETTLE_S):
        while True:
            if holds():
                return time.monotonic() - started_s
            await asyncio.sleep(LOOK_S)


async def counted(watched: Watched, counter: str, least: int) -> None:
    """Wait until a counter has reached ``least``."""
    async with asyncio.timeout(SETTLE_S):
        while True:
            if await watched.total(counter) >= least:
                return
            await asyncio.sleep(LOOK_S)


def unequal(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if not turn.equal]


async def test_a_replay_after_lost_events_restores_equality(
    watched: Watched, figures: Figures
) -> None:
    talks = [Talk(100 + number, WORDS) for number in range(TALKS)]
    schemes = {BlockScheme(BLOCK_TOKENS, name) for name in ("sha256", "sha256_cbor")}
    assert watched.router.schemes() == schemes, "told from the events alone"
    before = [*await watched.take(talks), *await watched.take(talks)]
    assert unequal(before) == []
    assert {turn.endpoint for turn in before} == {view.endpoint_id for view in watched.views}

    for relay in watched.relays:
        relay.losing, relay.replayed = True, 0
    await watched.take(talks)
    await watched.take(talks)
    assert all(relay.lost > 0 for relay in watched.relays)
    assert not watched.knows_all()
    for relay in watched.relays:
        relay.losing = False
    await watched.nudge()
    await eventually(watched.knows_all)

    after = [*await watched.take(talks), *await watched.take(talks)]
    figures["replay.batches_lost"] = sum(relay.lost for relay in watched.relays)
    figures["replay.batches_replayed"] = sum(relay.replayed for relay in watched.relays)
    figures["replay.requests"] = len(after)
    figures["replay.equal_ratio"] = 1 - len(unequal(after)) / len(after)
    assert unequal(after) == []
    assert sum(turn.cached_tokens > 0 for turn in after) > TALKS
    assert all(relay.replayed >= relay.lost for relay in watched.relays)
    assert await watched.total("headrace_kv_event_resyncs_total") == 0


async def test_where_no_replay_is_to_be_had_too_little_is_claimed_and_never_too_much(
    watched: Watched, figures: Figures
) -> None:
    talks = [Talk(200 + number, WORDS) for number in range(TALKS)]
    await watched.take(talks)
    for relay in watched.relays:
        relay.losing = relay.refusing = True
    await watched.take(talks)
    for relay in watched.relays:
        relay.losing = False
    await watched.nudge()
    await counted(watched, "headrace_kv_event_resyncs_total", len(watched.relays))

    after = await watched.take(talks)
    figures["no_replay.over_claimed"] = sum(t.predicted_tokens > t.cached_tokens for t in after)
    figures["no_replay.under_claimed"] = sum(t.predicted_tokens < t.cached_tokens for t in after)
    assert all(turn.predicted_tokens <= turn.cached_tokens for turn in after)
    assert figures["no_replay.under_claimed"] > 0, "they hold what the router does not know of"

    for relay in watched.relays:
        relay.refusing = False
    await eventually(watched.knows_all)
    assert unequal(await watched.take(talks)) == []


@pytest.mark.parametrize("watched", ["direct"], indirect=True)
async def test_what_a_killed_engine_held_is_forgotten_within_a_second(
    watched: Watched, third: FleetThread, figures: Figures
) -> None:
    talks = [Talk(300 + number, WORDS) for number in range(TALKS)]
    turns = [*await watched.take(talks), *await watched.take(talks)]
    assert KILLED in {turn.endpoint for turn in turns}
    (unit,) = third.status()
    assert unit.pid is not None
    assert watched.router.prefixes.blocks(KILLED) > 0
    os.kill(unit.pid, signal.SIGKILL)
    # Nobody tells this gateway that the engine is gone: only its events' connection does.
    figures["kill.forgotten_unannounced_s"] = await eventually(
        lambda: watched.router.prefixes.blocks(KILLED) == 0
    )
    after = await watched.take(talks)
    assert KILLED not in {turn.endpoint for turn in after}
    assert unequal(after) == []
    assert figures["kill.forgotten_unannounced_s"] <= STALL_S
