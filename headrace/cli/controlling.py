"""What ``headrace controller`` does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import uvloop

from controller.config import ControllerSettings
from controller.process import run_controller
from headrace.cli.ending import say, stop_on_signals
from headrace.service.log import configure_logging, get_logger
from headrace.service.settings import describe, load_settings


def run(config: Path | None, flags: Mapping[str, object]) -> None:
    """Work until SIGINT or SIGTERM.

    Args:
        config: Settings file, or None for the defaults.
        flags: Options by dotted field; they win over the file.

    Raises:
        ConfigError: if a setting is wrong, or there is no API server to be reached.

    """
    settings = load_settings(ControllerSettings, config, flags)
    configure_logging(json=True, level=settings.log.level)
    get_logger("controller").info("settings", effective=describe(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))


async def _run(settings: ControllerSettings) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)
    await run_controller(
        settings, ready=lambda url: say(f"The controller's probes are at {url}"), stop=stop
    )
