"""What a fleet is, wherever its engines run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from controller.fleets.unit import UnitStatus
from headrace.core.errors import HeadraceError
from headrace.runtime.discovery import EndpointSource


class FleetFailed(HeadraceError):
    """No engine of the fleet runs and none will be started again."""


class Fleet(Protocol):
    """Engines that are started and kept running. All methods belong to one event loop."""

    @property
    def source(self) -> EndpointSource:
        """The fleet's endpoints, with health, models, speed and load; empty before ``start``."""
        ...

    def status(self) -> Sequence[UnitStatus]:
        """Return each engine as it is now."""
        ...

    async def start(self) -> None:
        """Begin starting every engine; ``wait_ready`` says when they serve.

        Raises:
            ConfigError: if they cannot be started with these settings.

        """
        ...

    async def wait_ready(self) -> None:
        """Return when every engine serves, or has been given up while another serves.

        Raises:
            FleetFailed: when all have been given up.

        """
        ...

    async def wait_failed(self) -> None:
        """Return only by raising.

        Raises:
            FleetFailed: when all have been given up.

        """
        ...

    async def stop(self) -> None:
        """Let requests in flight end, then end the engines; before ``start`` it does nothing."""
        ...
