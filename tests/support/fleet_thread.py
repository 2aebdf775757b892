"""A fleet that lives as long as a module of tests: its event loop runs in a thread."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from types import TracebackType

from controller.fleets.config import FleetSettings
from controller.fleets.local import LocalFleet
from controller.fleets.unit import UnitStatus
from headrace.core.endpoint import EndpointView


class FleetThread:
    """Starts a ``LocalFleet`` on entering and has ended all of it on leaving."""

    def __init__(self, settings: FleetSettings, ready_s: float) -> None:
        self._settings = settings
        self._ready_s = ready_s
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._up: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="fleet")
        self._fleet: LocalFleet | None = None

    def __enter__(self) -> FleetThread:
        self._thread.start()
        try:
            self._up.result(self._ready_s + 30)
        except BaseException:
            self._thread.join(60)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the fleet did not stop"

    def endpoints(self) -> list[EndpointView]:
        """Return the endpoints as they are now."""
        assert self._fleet is not None
        return self._fleet.source.endpoints()

    def status(self) -> list[UnitStatus]:
        """Return the engine processes as they are now."""
        assert self._fleet is not None
        return self._fleet.status()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except Exception as error:  # noqa: BLE001 -- handed to the thread that waits
                if not self._up.done():
                    self._up.set_exception(error)

    async def _serve(self) -> None:
        self._fleet = LocalFleet(self._settings)
        async with self._fleet:
            async with asyncio.timeout(self._ready_s):
                await self._fleet.wait_ready()
            self._up.set_result(None)
            await self._stop.wait()
