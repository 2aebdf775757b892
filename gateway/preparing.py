"""Has tokenizers ready before requests come, and holds them against an engine's own tokens.

Asks engines over HTTP through the client it is given; loads files in the threads of
``gateway.tokens``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Final, Protocol

from gateway.sources import Sources
from gateway.tokens import ModelSource, PromptTokens
from headrace.core.endpoint import EndpointView, Health
from headrace.core.errors import EngineError
from headrace.core.ids import EndpointId, ModelName
from headrace.service.log import get_logger
from headrace.service.tasks import Restart
from router.router import Router

_log = get_logger("tokens")

FOR_EVER: Final = Restart(limit=2**31)
"""A tokenizer that cannot be loaded must not end the gateway; no model is tried twice."""


class Tokenizing(Protocol):
    """An engine that can be asked for tokens."""

    async def tokenize(self, body: bytes) -> list[int]:
        """Return the tokens it makes of a body for its ``/tokenize``."""
        ...


class Preparing:
    """Follows which models there are. One owner; ``run`` works in the background.

    A model is worth the trouble only where some endpoint tells what it holds; adapters have their
    base model's tokenizer.

    Args:
        router: Knows the endpoints.
        sources: Know where models' tokens come from.
        tokens: Has the tokenizers.
        engine: Makes the client of an endpoint.

    """

    def __init__(
        self,
        router: Router,
        sources: Sources,
        tokens: PromptTokens,
        engine: Callable[[EndpointView], Tokenizing],
    ) -> None:
        self._router = router
        self._sources = sources
        self._tokens = tokens
        self._engine = engine
        self._changed = asyncio.Event()
        self._usable: dict[ModelSource, bool] = {}  # those that were looked at, and what came of it
        self._asked: dict[ModelSource, set[EndpointId]] = {}
        self._verified: set[ModelSource] = set()

    def changed(self) -> None:
        """Take note that the endpoints are others than before."""
        self._changed.set()

    async def run(self) -> None:
        """Load and compare, whenever endpoints have changed, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            serving = self._serving()
            for source in self._usable.keys() - serving.keys():
                del self._usable[source]
                self._asked.pop(source, None)
                self._verified.discard(source)
            for source, views in serving.items():
                await self._prepare(source)
                await self._verify(source, views)

    def _serving(self) -> dict[ModelSource, list[EndpointView]]:
        """Return the base models whose tokens are worth knowing, and who tells of each."""
        telling: dict[ModelName, list[EndpointView]] = {}
        for view in self._router.endpoints():
            if view.kv_events is not None:
                for model in _base_models(view):
                    telling.setdefault(model, []).append(view)
        found: dict[ModelSource, list[EndpointView]] = {}
        for model, views in telling.items():
            source = self._sources.of(model)
            if source is not None:
                found[source] = views
        return found

    async def _prepare(self, source: ModelSource) -> None:
        if source not in self._usable:
            self._usable[source] = False  # also if what follows fails
            self._usable[source] = await self._tokens.prepare(source)

    async def _verify(self, source: ModelSource, views: list[EndpointView]) -> None:
        """Ask one engine, and if that fails one more whenever endpoints change.

        Where none can be asked, the counts in replies still tell a wrong tokenizer.
        """
        if not self._usable[source] or source in self._verified:
            return
        asked = self._asked.setdefault(source, set())
        asked &= {view.endpoint_id for view in views}
        for view in views:
            if view.health is Health.READY and view.endpoint_id not in asked:
                break
        else:
            return
        first = not asked
        asked.add(view.endpoint_id)
        try:
            same = await self._tokens.verify(source, self._engine(view).tokenize)
        except EngineError as error:
            if first:
                _log.warning("tokenizer_unverified", model=source.model, reason=error.message)
            return
        self._verified.add(source)
        if same:
            _log.info("tokenizer_verified", model=source.model, by=view.endpoint_id)


def _base_models(view: EndpointView) -> Iterator[ModelName]:
    """Yield the names that an endpoint serves without an adapter; they come first."""
    for model, files in zip_longest(view.models, view.files[: len(view.models)]):
        if files is not None and files.parent is not None:
            return
        yield model
