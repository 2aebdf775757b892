from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import structlog
from typing_extensions import override

from gateway.preparing import Preparing, Tokenizing
from gateway.sources import Sources
from gateway.tokens import ModelSource, PromptTokens
from headrace.core.endpoint import EndpointView, Health, KvEventSource, ModelFiles
from headrace.core.errors import EngineUnreachable
from headrace.core.ids import EndpointId, ModelName
from router.router import Router

EVENTS = KvEventSource("ipc:///nowhere")
MODEL = ModelName("m")
SOURCE = ModelSource(MODEL, "/models/m")


class Tokens(PromptTokens):
    """Counts what is asked of it, and answers as told."""

    def __init__(self) -> None:
        self.usable = True
        self.prepared: list[ModelSource] = []
        self.verified: list[ModelSource] = []

    @override
    async def prepare(self, source: ModelSource) -> bool:
        self.prepared.append(source)
        return self.usable

    @override
    async def verify(
        self, source: ModelSource, tokenize: Callable[[bytes], Awaitable[list[int]]]
    ) -> bool:
        same = await tokenize(b"{}") == [1]
        self.verified.append(source)
        return same


@dataclass
class Engine(Tokenizing):
    """An engine that answers, or cannot be reached."""

    asked: list[EndpointId]
    view: EndpointView
    down: set[EndpointId]

    @override
    async def tokenize(self, body: bytes) -> list[int]:
        self.asked.append(self.view.endpoint_id)
        if self.view.endpoint_id in self.down:
            raise EngineUnreachable("nobody listens")
        return [1]


@dataclass
class Stage:
    """Endpoints that a test sets, and what then is done."""

    router: Router = field(default_factory=Router)
    tokens: Tokens = field(default_factory=Tokens)
    asked: list[EndpointId] = field(default_factory=list)
    down: set[EndpointId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sources = Sources(self.router.serving)
        self.preparing = Preparing(
            self.router,
            self.sources,
            self.tokens,
            lambda view: Engine(self.asked, view, self.down),
        )

    async def set(self, *views: EndpointView) -> None:
        self.router.set_endpoints(views)
        self.sources.forget()
        self.preparing.changed()
        for _ in range(20):
            await asyncio.sleep(0)

    async def __aenter__(self) -> Stage:
        self._task = asyncio.create_task(self.preparing.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def view(name: str, **changes: object) -> EndpointView:
    files = (ModelFiles("/models/m"),)
    made = EndpointView(EndpointId(name), f"http://{name}", (MODEL,), kv_events=EVENTS, files=files)
    return replace(made, **changes)  # type: ignore[arg-type]


async def test_a_model_is_prepared_once_known_and_compared_once_an_endpoint_is_ready() -> None:
    async with Stage() as stage:
        await stage.set(view("a", health=Health.DOWN))
        assert (stage.tokens.prepared, stage.asked) == ([SOURCE], [])
        await stage.set(view("a"))
        await stage.set(view("a"), view("b"))
        assert (stage.tokens.prepared, stage.asked) == ([SOURCE], [EndpointId("a")])
        assert stage.tokens.verified == [SOURCE]


async def test_a_model_without_a_tokenizer_is_neither_asked_about_nor_tried_again() -> None:
    async with Stage() as stage:
        stage.tokens.usable = False
        await stage.set(view("a"))
        await stage.set(view("a"), view("b"))
        assert (stage.tokens.prepared, stage.asked) == ([SOURCE], [])


async def test_engines_that_tell_no_events_need_no_tokenizer() -> None:
    async with Stage() as stage:
        await stage.set(view("a", kv_events=None))
        assert stage.tokens.prepared == []


async def test_an_engine_that_cannot_be_asked_is_told_of_once_and_others_are_asked() -> None:
    with structlog.testing.capture_logs() as lines:
        async with Stage() as stage:
            stage.down |= {EndpointId("a"), EndpointId("b")}
            await stage.set(view("a"), view("b"))
            await stage.set(view("a"), view("b"), view("c"))
            assert stage.tokens.verified == []
            await stage.set(view("a"), view("b"), view("c"), view("d"))
            assert stage.tokens.verified == [SOURCE]
    assert stage.asked == [EndpointId(name) for name in "abc"]
    assert [line["event"] for line in lines] == ["tokenizer_unverified", "tokenizer_verified"]


async def test_a_model_that_went_and_came_back_is_looked_at_again() -> None:
    async with Stage() as stage:
        await stage.set(view("a"))
        await stage.set()
        await stage.set(view("a"))
        assert stage.tokens.prepared == [SOURCE, SOURCE]
        assert stage.tokens.verified == [SOURCE, SOURCE]


async def test_adapters_are_no_work_beside_their_base_model() -> None:
    files = (ModelFiles("/models/m"), ModelFiles("/adapters/x", parent=MODEL))
    async with Stage() as stage:
        await stage.set(view("a", models=(MODEL, ModelName("x")), files=files))
        assert stage.tokens.prepared == stage.tokens.verified == [SOURCE]
