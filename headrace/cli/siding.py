"""What ``headrace runtime`` and ``headrace fetch`` do: a sidecar, and one download."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import uvloop

from headrace.cli.ending import say, stop_on_signals
from headrace.core.errors import ConfigError
from headrace.runtime.artifacts.allowed import parse_uri
from headrace.runtime.artifacts.cache import Lease
from headrace.runtime.artifacts.store import ArtifactStore, Fetch
from headrace.runtime.sidecar.config import RuntimeSettings
from headrace.runtime.sidecar.process import run_sidecar, web_session
from headrace.service.clock import RealClock
from headrace.service.log import configure_logging, get_logger
from headrace.service.settings import describe, load_settings

TOLD_EACH_S: Final = 5.0
"""Between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Fetching:
    """One download as asked for."""

    source: str
    name: str | None
    digest: str | None
    link: Path | None


def run_runtime(config: Path | None, flags: Mapping[str, object]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        config: Settings file, or None for the defaults.
        flags: Options by dotted field; they win over the file.

    Raises:
        ConfigError: if a setting is wrong.

    """
    settings = _settings(config, flags)
    get_logger("runtime").info("settings", effective=describe(settings))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


def run_fetch(config: Path | None, flags: Mapping[str, object], asked: Fetching) -> None:
    """Fetch what was asked for and print its path.

    Raises:
        ConfigError: if a setting is wrong, or the link cannot be made.
        RequestError: if the source or the digest is malformed.
        ArtifactError: if the files cannot be had.

    """
    # Whoever types a source allows it: the list is for those who ask a running sidecar.
    typed = str(parse_uri(asked.source))
    settings = _settings(config, flags)
    allow = (*settings.artifacts.allow, typed.partition("?")[0])
    settings = settings.model_copy(
        update={"artifacts": settings.artifacts.model_copy(update={"allow": allow})}
    )
    lease = asyncio.run(_fetch(settings, asked))
    try:
        if asked.link is not None:
            _link(asked.link, lease.path)
    finally:
        lease.release()
    say(str(lease.path))


def _settings(config: Path | None, flags: Mapping[str, object]) -> RuntimeSettings:
    settings = load_settings(RuntimeSettings, config, flags)
    configure_logging(json=not sys.stderr.isatty(), level=settings.log.level)
    return settings


async def _serve(settings: RuntimeSettings) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop)

    def ready(url: str) -> None:
        say(f"Headrace runtime listens at {url} beside {settings.engine.url}.")

    await run_sidecar(settings, ready=ready, stop=stop)


async def _fetch(settings: RuntimeSettings, asked: Fetching) -> Lease:
    clock = RealClock()
    log = get_logger("fetch")
    told_s = clock.now_s()

    def progress(fetch: Fetch) -> None:
        nonlocal told_s
        if clock.now_s() - told_s >= TOLD_EACH_S:
            told_s = clock.now_s()
            log.info("progress", bytes=fetch.done_bytes, total_bytes=fetch.total_bytes)

    name = asked.name or asked.source.partition("?")[0].rstrip("/").rpartition("/")[2]
    async with web_session(settings.artifacts.parts) as session:
        store = ArtifactStore(settings.artifacts, session, clock, Random(), progress=progress)
        return await store.fetch(name, asked.source, asked.digest)


def _link(link: Path, target: Path) -> None:
    """Put a link in its place at once, over another link but over nothing else."""
    try:
        if link.exists() and not link.is_symlink():
            raise ConfigError(f"--link: {link} is there and no link")
        link.parent.mkdir(parents=True, exist_ok=True)
        made = link.with_name(f".{link.name}.{os.getpid()}")
        made.symlink_to(target)
        made.replace(link)
    except OSError as error:
        raise ConfigError(f"--link: {link}: {error.strerror}") from None
