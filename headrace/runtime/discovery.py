"""Where endpoints come from: a source has a full list now, and says when it changed. No I/O.

Consumers are level-triggered: read ``endpoints()``, act on all of it, await ``changed()``, repeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from typing_extensions import override

from headrace.core.endpoint import EndpointView, Health
from headrace.core.ids import EndpointId


class EndpointSource(Protocol):
    """Knows every endpoint of a fleet."""

    def endpoints(self) -> list[EndpointView]:
        """Return all of them, as now known, ordered by id."""
        ...

    @property
    def away(self) -> bool:
        """Whether the list may be old: who tells it is away, or tells what cannot be used."""
        return False

    async def changed(self) -> None:
        """Wait until the list differs from what it is at the moment of the call.

        Nothing is missed between ``endpoints()`` and ``await changed()`` when the caller awaits
        nothing else in between. Any number of tasks may wait.
        """
        ...


class StaticSource(EndpointSource):
    """A list that never changes, for configuration files and tests."""

    def __init__(self, endpoints: Iterable[EndpointView]) -> None:
        self._endpoints = sorted(endpoints, key=lambda view: view.endpoint_id)

    @override
    def endpoints(self) -> list[EndpointView]:
        return list(self._endpoints)

    @override
    async def changed(self) -> None:
        await asyncio.get_running_loop().create_future()


class ListSource(EndpointSource):
    """A list that its one owner edits; equal values announce nothing."""

    def __init__(self) -> None:
        self._endpoints: dict[EndpointId, EndpointView] = {}
        self._next = asyncio.Event()

    @override
    def endpoints(self) -> list[EndpointView]:
        return [self._endpoints[key] for key in sorted(self._endpoints)]

    @override
    async def changed(self) -> None:
        await self._next.wait()

    def get(self, endpoint_id: EndpointId) -> EndpointView | None:
        """Return one endpoint, or None when it is not in the list."""
        return self._endpoints.get(endpoint_id)

    def put(self, view: EndpointView) -> None:
        """Add an endpoint, or replace what is known of it."""
        if self._endpoints.get(view.endpoint_id) != view:
            self._endpoints[view.endpoint_id] = view
            self._announce()

    def replace(self, views: Iterable[EndpointView]) -> None:
        """Make these the whole list; who waits is told once, however many are new."""
        endpoints = {view.endpoint_id: view for view in views}
        if endpoints != self._endpoints:
            self._endpoints = endpoints
            self._announce()

    def remove(self, endpoint_id: EndpointId) -> None:
        """Forget an endpoint; one that is not in the list is no error."""
        if self._endpoints.pop(endpoint_id, None) is not None:
            self._announce()

    def _announce(self) -> None:
        """Wake everyone who waits; who waits from now on waits for the change after this."""
        event, self._next = self._next, asyncio.Event()
        event.set()


def or_gone(views: Sequence[EndpointView], before: Sequence[EndpointView]) -> list[EndpointView]:
    """Return the views; if there are none, those from before, as down.

    A fleet that is empty for a while still has its models: a request for one may be tried again.
    """
    return list(views) or [replace(view, health=Health.DOWN) for view in before]
