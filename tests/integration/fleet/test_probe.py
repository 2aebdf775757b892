from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from aiohttp import web
from pydantic import SecretStr

from headrace.core.endpoint import EndpointView, Health, Speed
from headrace.core.errors import EngineRefused, EngineTimeout, EngineUnreachable
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.client import DP_RANK_HEADER, ClientLimits, EngineClient
from headrace.runtime.config import ProbeSettings
from headrace.runtime.discovery import ListSource
from headrace.runtime.probe import Prober
from headrace.service.clock import RealClock
from headrace.service.http import HttpLimits, make_session

FAST = ProbeSettings(period_s=0.05, starting_period_s=0.01, timeout_s=0.5, generate_timeout_s=2)
PAGE = (
    'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 4.0\n'
    'vllm:kv_cache_usage_perc{engine="0"} 0.5\n'
    'vllm:cache_config_info{block_size="16",num_gpu_blocks="10"} 1.0\n'
)


@dataclass
class Engine:
    """An engine in this process whose answers a test changes as it goes."""

    health: int = 200
    generate: int = 200
    page: str = PAGE
    models: list[dict[str, object]] = field(default_factory=lambda: [{"id": "m"}])
    models_text: str | None = None
    stall: asyncio.Event | None = None
    prompts: list[list[int]] = field(default_factory=list)
    ranks: set[str | None] = field(default_factory=set)
    asked: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    url: str = ""

    async def asked_again(self, path: str, times: int) -> None:
        """Wait until ``path`` has been asked for that often from now on."""
        while not self.asked.empty():
            self.asked.get_nowait()
        async with asyncio.timeout(10):
            while times > 0:
                times -= await self.asked.get() == path

    async def _health(self, _: web.Request) -> web.Response:
        if self.stall is not None:
            await self.stall.wait()
        return web.Response(status=self.health)

    async def _models(self, _: web.Request) -> web.Response:
        if self.models_text is not None:
            return web.Response(text=self.models_text)
        return web.json_response({"data": self.models})

    async def _metrics(self, _: web.Request) -> web.Response:
        self.asked.put_nowait("/metrics")
        return web.Response(text=self.page)

    async def _generate(self, request: web.Request) -> web.Response:
        self.prompts.append((await request.json())["prompt"])
        self.ranks.add(request.headers.get(DP_RANK_HEADER))
        self.asked.put_nowait("/v1/completions")
        return web.json_response({}, status=self.generate)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._generate)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()


class Watched:
    """A prober at work over a list that the test owns."""

    def __init__(self, given: ListSource, prober: Prober) -> None:
        self.given = given
        self.prober = prober

    def add(self, engine: Engine, name: str = "e", **more: object) -> None:
        view = EndpointView(EndpointId(name), engine.url, (ModelName("presumed"),))
        self.given.put(replace(view, **more))  # type: ignore[arg-type]

    async def until(self, holds: Callable[[EndpointView | None], bool]) -> EndpointView | None:
        async with asyncio.timeout(10):
            while not holds(view := self.prober.get(EndpointId("e"))):
                await self.prober.changed()
        return view

    async def health(self, health: Health) -> EndpointView:
        view = await self.until(lambda view: view is not None and view.health is health)
        assert view is not None
        return view


@asynccontextmanager
async def watching(settings: ProbeSettings = FAST) -> AsyncIterator[Watched]:
    given = ListSource()
    async with make_session(HttpLimits()) as session:
        prober = Prober(given, session, settings, RealClock(), Random(1))
        task = asyncio.create_task(prober.run())
        try:
            yield Watched(given, prober)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_serving_endpoint_becomes_ready_with_what_it_said_of_itself() -> None:
    engine = Engine()
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        view = await watched.health(Health.READY)
        assert view.models == ("m",)
        assert view.speed.kv_tokens == 160
        assert view.load is not None
        assert (view.load.running, view.load.waiting, view.load.kv_used_ratio) == (3, 4, 0.5)
        assert [len(prompt) for prompt in engine.prompts] == [8, 8, 1024]


async def test_it_measures_with_prompts_that_fit_and_that_no_cache_holds() -> None:
    engine = Engine(models=[{"id": "m", "max_model_len": 100}])
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        view = await watched.health(Health.READY)
        assert [len(prompt) for prompt in engine.prompts] == [8, 8, 99]
        assert engine.prompts[0] != engine.prompts[1]
        assert view.speed != Speed()


async def test_an_endpoint_that_fails_to_generate_is_not_ready_until_it_does() -> None:
    engine = Engine(generate=500)
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        await watched.until(lambda view: view is not None and view.load is not None)
        await engine.asked_again("/v1/completions", 3)
        view = watched.prober.get(EndpointId("e"))
        assert view is not None
        assert view.health is Health.DOWN
        engine.generate = 200
        await watched.health(Health.READY)


async def test_an_endpoint_that_does_no_completions_is_ready_unmeasured() -> None:
    engine = Engine(generate=404)
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        view = await watched.health(Health.READY)
        assert len(engine.prompts) == 1
        assert view.speed.prefill_tokens_per_s == Speed().prefill_tokens_per_s


async def test_an_unwell_endpoint_goes_down_and_proves_itself_again_to_come_back() -> None:
    engine = Engine()
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        await watched.health(Health.READY)
        engine.health = 503
        await watched.health(Health.DOWN)
        asked = len(engine.prompts)
        engine.health = 200
        await watched.health(Health.READY)
        assert len(engine.prompts) > asked


async def test_an_endpoint_that_stalls_goes_down_after_its_time_outs() -> None:
    engine = Engine()
    async with engine.serving(), watching(FAST.model_copy(update={"timeout_s": 0.05})) as watched:
        watched.add(engine)
        await watched.health(Health.READY)
        engine.stall = asyncio.Event()
        await watched.health(Health.DOWN)
        engine.stall.set()


async def test_an_endpoint_that_runs_requests_and_does_nothing_is_down_until_it_moves() -> None:
    engine = Engine()
    async with engine.serving(), watching(FAST.model_copy(update={"stall_s": 0.2})) as watched:
        watched.add(engine)
        await watched.health(Health.READY)
        await watched.health(Health.DOWN)
        asked = len(engine.prompts)
        engine.page = PAGE + "vllm:generation_tokens_total 1.0\n"
        await watched.health(Health.READY)
        assert len(engine.prompts) > asked


async def test_an_endpoint_nobody_serves_goes_down_at_the_first_refusal() -> None:
    engine = Engine()
    once = FAST.model_copy(update={"failures_to_down": 100})
    async with watching(once) as watched:
        async with engine.serving():
            watched.add(engine)
            await watched.health(Health.READY)
        await watched.health(Health.DOWN)


async def test_adapters_loaded_later_appear_after_the_base_model() -> None:
    engine = Engine()
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        await watched.health(Health.READY)
        engine.models = [{"id": "adapter", "parent": "m"}, {"id": "m"}]
        view = await watched.until(lambda view: view is not None and len(view.models) == 2)
        assert view is not None
        assert view.models == ("m", "adapter")


async def test_a_page_without_load_keeps_the_last_one_and_its_age() -> None:
    engine = Engine()
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        view = await watched.health(Health.READY)
        engine.page = "nothing we know\n"
        await engine.asked_again("/metrics", 3)
        now = watched.prober.get(EndpointId("e"))
        assert now is not None
        assert now.load is not None
        assert view.load is not None
        assert replace(now.load, at_s=0.0) == replace(view.load, at_s=0.0)
        kept = now.load
        await engine.asked_again("/metrics", 3)
        now = watched.prober.get(EndpointId("e"))
        assert now is not None
        assert now.load == kept


async def test_the_owners_word_that_an_endpoint_drains_stands() -> None:
    engine = Engine()
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        await watched.health(Health.READY)
        watched.add(engine, health=Health.DRAINING)
        await watched.health(Health.DRAINING)
        await engine.asked_again("/metrics", 2)
        view = watched.prober.get(EndpointId("e"))
        assert view is not None
        assert view.health is Health.DRAINING


async def test_an_endpoint_that_moved_proves_itself_again() -> None:
    engine, other = Engine(), Engine(generate=500)
    async with engine.serving(), other.serving(), watching() as watched:
        watched.add(engine)
        await watched.health(Health.READY)
        watched.add(other)
        view = await watched.health(Health.DOWN)
        assert view.url == other.url
        await other.asked_again("/v1/completions", 2)
        other.generate = 200
        await watched.health(Health.READY)


async def test_a_removed_endpoint_is_forgotten_and_no_longer_asked() -> None:
    engine = Engine()
    async with engine.serving(), watching() as watched:
        watched.add(engine)
        await watched.health(Health.READY)
        watched.given.remove(EndpointId("e"))
        await watched.until(lambda view: view is None)
        assert watched.prober.endpoints() == []


async def test_many_endpoints_are_watched_at_once() -> None:
    engine = Engine()
    few = FAST.model_copy(update={"concurrency": 3, "measure_tokens": 0})
    async with engine.serving(), watching(few) as watched:
        for index in range(20):
            watched.add(engine, f"e{index:02}")
        async with asyncio.timeout(10):
            while not all(view.health is Health.READY for view in watched.prober.endpoints()):
                await watched.prober.changed()


async def test_the_client_tells_refusal_silence_and_nonsense_apart() -> None:
    engine = Engine()
    async with make_session(HttpLimits()) as session:
        async with engine.serving():
            client = EngineClient(session, engine.url, ClientLimits(10.0, 1_000))
            engine.models_text = "<html>"
            with pytest.raises(EngineRefused):
                await client.models()
            engine.page = "x" * 5_000
            with pytest.raises(EngineRefused, match="longer than 1000 bytes"):
                await client.report()
            engine.health = 302
            with pytest.raises(EngineRefused, match="302"):
                await client.health()
            engine.stall = asyncio.Event()
            hasty = EngineClient(session, engine.url, ClientLimits(0.05, 1_000))
            with pytest.raises(EngineTimeout):
                await hasty.health()
            engine.stall.set()
        with pytest.raises(EngineUnreachable):
            await client.health()


async def test_of_a_data_parallel_engine_each_rank_is_an_endpoint() -> None:
    engine = Engine()
    engine.page = (
        'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_running{engine="1"} 5.0\n'
        'vllm:num_requests_waiting{engine="1"} 1.0\nvllm:kv_cache_usage_perc{engine="1"} 0.5\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.1\n'
        'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="10"} 1.0\n'
        'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="20"} 1.0\n'
    )
    async with engine.serving(), watching() as watched:
        watched.add(engine, dp_rank=1)
        view = await watched.health(Health.READY)
        assert view.load is not None
        assert (view.load.running, view.load.waiting, view.load.kv_used_ratio) == (5, 1, 0.5)
        assert view.speed.kv_tokens == 320
        assert engine.ranks == {"1"}


async def test_an_engine_is_asked_for_its_tokens_with_the_key_it_wants() -> None:
    async def tokenize(request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        assert await request.json() == {"prompt": "a b"}
        if request.headers.get("authorization") != "Bearer hush":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response({"count": 2, "tokens": [5, 6], "max_model_len": 10})

    async def odd(_: web.Request) -> web.Response:
        return web.Response(text="no")

    app = web.Application()
    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/odd/tokenize", odd)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    body = b'{"prompt": "a b"}'
    try:
        async with make_session(HttpLimits(), key=SecretStr("hush")) as session:
            assert await EngineClient(session, url, ClientLimits()).tokenize(body) == [5, 6]
            with pytest.raises(EngineRefused, match="/tokenize"):
                await EngineClient(session, url + "/odd", ClientLimits()).tokenize(body)
        async with make_session(HttpLimits()) as session:
            with pytest.raises(EngineRefused, match="401"):
                await EngineClient(session, url, ClientLimits()).tokenize(body)
    finally:
        await runner.cleanup()
