"""Where adapters are said to be: a source has a full list now, and says when it changed. No I/O.

The same contract as ``headrace.runtime.discovery`` has for endpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from typing_extensions import override

from headrace.core.adapter import AdapterSpec


class AdapterSource(Protocol):
    """Knows every adapter that endpoints may be given."""

    def specs(self) -> list[AdapterSpec]:
        """Return all of them, as now known, ordered by name."""
        ...

    @property
    def tells_all(self) -> bool:
        """Whether an adapter that is not listed is wanted by nobody, here or elsewhere."""
        ...

    async def changed(self) -> None:
        """Wait until the list differs from what it is at the moment of the call.

        Nothing is missed between ``specs()`` and ``await changed()`` when the caller awaits nothing
        else in between. Any number of tasks may wait.
        """
        ...


class ListedAdapters(AdapterSource):
    """A list that its one owner replaces; an equal one announces nothing.

    Others may have other lists.
    """

    tells_all = False

    def __init__(self, specs: Iterable[AdapterSpec] = ()) -> None:
        self._specs = _ordered(specs)
        self._next = asyncio.Event()

    @override
    def specs(self) -> list[AdapterSpec]:
        return list(self._specs)

    @override
    async def changed(self) -> None:
        await self._next.wait()

    def replace(self, specs: Iterable[AdapterSpec]) -> None:
        """Take the whole of a new list."""
        ordered = _ordered(specs)
        if ordered != self._specs:
            self._specs = ordered
            event, self._next = self._next, asyncio.Event()
            event.set()


def _ordered(specs: Iterable[AdapterSpec]) -> list[AdapterSpec]:
    return sorted(specs, key=lambda spec: spec.name)
