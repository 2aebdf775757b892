"""Tells a fleet's endpoints to whoever connects to a Unix socket. Opens sockets.

A line holds the whole list (see ``listing``): at once, after each change, and again as a heartbeat.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from headrace.core.endpoint import EndpointView, Health
from headrace.core.errors import ConfigError
from headrace.runtime.discovery import EndpointSource
from headrace.runtime.listing import write_listing
from headrace.runtime.socket_source import HEARTBEAT_S
from headrace.service.log import get_logger

_log = get_logger("publish")

PATH_BYTES: Final = 107
"""Longest path of a Unix socket. Source: unix(7), ``sun_path``."""
BACKLOG: Final = 64


@dataclass(frozen=True, slots=True)
class PublishLimits:
    """Bounds on telling.

    Attributes:
        readers: Connections at once; more are closed as they come.
        heartbeat_s: Between two lines when nothing changes, in seconds.
        stalled_s: A reader that takes nothing for this long is let go.

    """

    readers: int = 64
    heartbeat_s: float = HEARTBEAT_S
    stalled_s: float = 10.0


class Publisher:
    """Tells what ``source`` lists while ``run`` runs; ``open`` first.

    A reader that is slow misses versions, never the newest. All methods belong to one event loop.
    """

    def __init__(
        self, path: Path, source: EndpointSource, limits: PublishLimits | None = None
    ) -> None:
        self._path = path
        self._source = source
        self._limits = limits or PublishLimits()
        self._listener: socket.socket | None = None
        self._inode = 0
        self._told: list[EndpointView] = []
        self._line = write_listing(())
        self._news = asyncio.Event()
        self._readers: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Take the socket's path; a file left there by a process that is dead is replaced.

        Raises:
            ConfigError: when another process listens there, or nobody can.

        """
        self._listener, self._inode = _listener(self._path)

    async def run(self) -> None:
        """Tell until cancelled; then the socket is gone, and so is its file."""
        assert self._listener is not None, "open first"
        self._take()
        server = await asyncio.start_unix_server(self._accept, sock=self._listener)
        try:
            while True:
                await self._source.changed()
                self._take()
        finally:
            server.close()
            for reader in list(self._readers):
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
            self.close()

    def close(self) -> None:
        """Remove the socket, if it is still ours; a second time does nothing."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        listener.close()

    def _take(self) -> None:
        """Take the list as it is; if it differs in what is told of it, tell it to all."""
        now = [_told(view) for view in self._source.endpoints()]
        if now == self._told:
            return
        self._told = now
        self._line = write_listing(now)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._readers) >= self._limits.readers:
            _log.warning("reader_refused", readers=len(self._readers))
            writer.close()
            return
        task = asyncio.create_task(self._serve(writer), name="reader")
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    async def _serve(self, writer: asyncio.StreamWriter) -> None:
        try:
            await self._tell(writer)
        except (OSError, TimeoutError) as error:
            _log.debug("reader_left", why=str(error))
        finally:
            writer.transport.abort()

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        """Write the newest line whenever the last has been taken and there is reason to."""
        writer.transport.set_write_buffer_limits(high=0)
        while True:
            news = self._news
            writer.write(self._line)
            async with asyncio.timeout(self._limits.stalled_s):
                await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.heartbeat_s):
                    await news.wait()


def _told(view: EndpointView) -> EndpointView:
    """Return what is told of an endpoint: what holds for all who may send there.

    How it is, and which adapters it has just now, each of them finds out; an engine that says that
    its KV cache holds nothing must not make a list that nobody reads.
    """
    health = Health.DRAINING if view.health is Health.DRAINING else Health.READY
    speed = replace(view.speed, kv_tokens=max(1, view.speed.kv_tokens))
    models = view.models[:1]
    return replace(view, models=models, health=health, speed=speed, load=None, files=())


def _listener(path: Path) -> tuple[socket.socket, int]:
    if len(os.fsencode(path)) > PATH_BYTES:
        raise ConfigError(f"publish.socket: {path}: longer than {PATH_BYTES} bytes")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Of two that start at once one must not take the other's new socket for a dead one.
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _make_way(path)
            listener.bind(os.fspath(path))
            path.chmod(0o600)  # before anyone can connect
            listener.listen(BACKLOG)
        finally:
            os.close(folder)
    except OSError as error:
        listener.close()
        raise ConfigError(f"publish.socket: {path}: {error.strerror}") from None
    except ConfigError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener, path.stat().st_ino


def _make_way(path: Path) -> None:
    """Remove a socket that nobody listens at.

    Raises:
        ConfigError: when somebody does, or it is no socket.
        OSError: when it cannot be removed.

    """
    if not path.exists():
        return
    if not path.is_socket():
        raise ConfigError(f"publish.socket: {path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):
            pass  # it listens, and has more callers than it takes
    raise ConfigError(f"publish.socket: {path}: another process listens there")
