"""Finds adapters that were loaded for someone and that nobody asks for any more. Asks sidecars.

One that is deleted while no gateway runs stays in its engines: no gateway that comes later had it
loaded. What the engine was started with looks the same from here; the sidecar tells them apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from gateway.adapter_hosts import AdapterHosts
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView, Health
from headrace.core.errors import HeadraceError
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.adapter_source import AdapterSource
from headrace.service.log import get_logger
from router.adapters import AdapterBook, adapters_of

_log = get_logger("adapters")

Key = tuple[EndpointId, ModelName]

ORPHAN_S: Final = 180.0
"""For how long an adapter must not be listed. Another gateway may have a newer list: a watch that
went silent is told from a quiet one only after 100 s (``ReflectorLimits.read_s``) and two tries."""

ASKED_AT_ONCE: Final = 8
"""Sidecars asked at most in one look; the next one follows."""


class Orphans:
    """Follows what endpoints list and nobody knows. One owner.

    Args:
        book: Which adapters there are, and where.
        source: Whether these are all that anyone wants.
        hosts: How endpoints are asked.
        clock: Tells the time.

    """

    def __init__(
        self, book: AdapterBook, source: AdapterSource, hosts: AdapterHosts, clock: Clock
    ) -> None:
        self._book = book
        self._source = source
        self._hosts = hosts
        self._clock = clock
        self._since_s: dict[Key, float] = {}
        self._kept: set[Key] = set()

    async def find(self, views: Iterable[EndpointView], ours: frozenset[Key]) -> list[Key]:
        """Return what is to be unloaded.

        Args:
            views: The endpoints.
            ours: What this gateway had loaded, and unloads in other ways.

        """
        if not self._source.tells_all:
            self._since_s.clear()
            return []
        asked = [v for v in views if v.health is Health.READY and v.runtime_url is not None]
        there = {
            (view.endpoint_id, name)
            for view in asked
            for name in adapters_of(view)
            if (view.endpoint_id, name) not in ours and self._is_unwanted(view.endpoint_id, name)
        }
        now_s = self._clock.now_s()
        self._since_s = {key: self._since_s.get(key, now_s) for key in there}
        self._kept &= there
        due = {key for key in there - self._kept if now_s - self._since_s[key] >= ORPHAN_S}
        suspects = [view for view in asked if any(key[0] == view.endpoint_id for key in due)]
        told = await asyncio.gather(*(self._loaded(each) for each in suspects[:ASKED_AT_ONCE]))
        # The list may have changed while sidecars answered.
        orphans = due & set().union(*told)
        return sorted(key for key in orphans if self._source.tells_all and self._is_unwanted(*key))

    def _is_unwanted(self, endpoint_id: EndpointId, name: ModelName) -> bool:
        return self._book.spec(name) is None and not self._book.active(endpoint_id, name)

    async def _loaded(self, view: EndpointView) -> set[Key]:
        """Return what a sidecar itself had loaded; all else there is not asked about again."""
        try:
            found = await self._hosts.of(view).loaded()
        except HeadraceError as error:
            _log.debug("adapters_unread", endpoint=view.endpoint_id, why=str(error))
            return set()
        self._kept |= {(view.endpoint_id, one.name) for one in found if not one.ours}
        return {(view.endpoint_id, one.name) for one in found if one.ours}
