"""Where an endpoint's adapters are loaded: at its sidecar, or at the engine itself. Opens files."""

from __future__ import annotations

from random import Random
from typing import Protocol

import aiohttp

from gateway.adapters_config import AdapterSettings
from headrace.core.adapter import AdapterSpec
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.adapters import AdapterHost, AdapterLimits, LoadedAdapter
from headrace.runtime.artifacts.store import ArtifactStore
from headrace.runtime.client import ClientLimits, EngineClient
from headrace.runtime.engines.catalog import DIALECTS, EngineProgram
from headrace.runtime.sidecar.client import SidecarClient
from headrace.runtime.sidecar.process import web_session


class AdapterCalls(Protocol):
    """What can be done with one endpoint's adapters; errors are those of ``AdapterHost``."""

    async def load(self, spec: AdapterSpec) -> LoadedAdapter:
        """Have it serve an adapter; returns at once when it does already."""
        ...

    async def unload(self, name: ModelName) -> bool:
        """Have it forget an adapter; False if it had none of that name."""
        ...

    async def loaded(self) -> tuple[LoadedAdapter, ...]:
        """Return the adapters that it has, in order of name."""
        ...


class AdapterHosts(Protocol):
    """Knows how each endpoint is told of adapters."""

    def of(self, view: EndpointView) -> AdapterCalls:
        """Return what to call for an endpoint."""
        ...

    async def keep(self, known: frozenset[EndpointId]) -> None:
        """Let go of what belongs to endpoints that are no longer known."""
        ...

    async def close(self) -> None:
        """Let go of everything; engines keep what they have."""
        ...


class RealHosts(AdapterHosts):
    """A sidecar where the endpoint has one; else a host of our own in front of the engine.

    Args:
        settings: Of adapters.
        session: Makes the calls; with the engines' key, which no server of files is shown.
        clock: For waiting.

    """

    def __init__(
        self, settings: AdapterSettings, session: aiohttp.ClientSession, clock: Clock
    ) -> None:
        self._settings = settings
        self._session = session
        own = {entry.source for entry in settings.known}
        artifacts = settings.artifacts
        files = artifacts.model_copy(
            update={
                "cache_dir": artifacts.cache_dir.expanduser(),
                "allow": (*artifacts.allow, *sorted(own)),
            }
        )
        self._web = web_session(files.parts)
        self._store = ArtifactStore(files, self._web, clock, Random())
        self._hosts: dict[EndpointId, tuple[str, AdapterHost]] = {}

    def of(self, view: EndpointView) -> AdapterCalls:
        """Return what to call for an endpoint."""
        if view.runtime_url is not None:
            return SidecarClient(self._session, view.runtime_url, load_s=self._settings.load_s)
        url, host = self._hosts.get(view.endpoint_id, ("", None))
        if host is None or url != view.url:
            program = EngineProgram.SIMULATED if view.simulated else self._settings.engine
            host = AdapterHost(
                EngineClient(self._session, view.url, ClientLimits(), dp_rank=view.dp_rank),
                DIALECTS[program],
                self._store,
                AdapterLimits(self._settings.per_endpoint, self._settings.load_s),
            )
            self._hosts[view.endpoint_id] = (view.url, host)
        return host

    async def keep(self, known: frozenset[EndpointId]) -> None:
        """Let go of the files that engines had which are gone."""
        for endpoint_id in self._hosts.keys() - known:
            _, host = self._hosts.pop(endpoint_id)
            await host.close()

    async def close(self) -> None:
        """Let go of all files."""
        await self.keep(frozenset())
        await self._web.close()
