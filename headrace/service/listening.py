"""Opens the socket that a server listens on, and serves an application on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import uvicorn

from headrace.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of an HTTP server.

    Attributes:
        connections: Most at once.
        finish_s: What requests in flight get once it is told to stop; whole seconds, at least 1.
        keepalive_s: How long a connection may be idle.

    """

    connections: int
    finish_s: float
    keepalive_s: int = 5


def listen(host: str, port: int, *, fields: str) -> socket.socket:
    """Return a socket bound to an address, IPv6 where the host has a colon.

    Args:
        host: Address to listen on.
        port: Port there; 0 takes a free one.
        fields: The settings that say so, named in the error.

    Raises:
        ConfigError: if the address cannot be listened on.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{fields}: cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


async def serve(
    app: object,
    listener: socket.socket,
    limits: ServerLimits,
    *,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    protocol: Callable[..., asyncio.Protocol] | None = None,
) -> None:
    """Serve until ``stop`` is set, then let requests in flight finish; cancelled, cut them.

    uvicorn's phases are called one by one: it must not take our signals.

    Args:
        app: An ASGI application.
        listener: Bound; its owner closes it.
        limits: Bounds.
        ready: Called with the URL as soon as connections are accepted.
        stop: Set it to stop.
        protocol: Makes each connection's protocol, with uvicorn's arguments; None is uvicorn's own.

    """
    config = uvicorn.Config(
        cast("Any", app),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=limits.keepalive_s,
        timeout_graceful_shutdown=max(1, round(limits.finish_s)),
    )
    config.load()
    if protocol is not None:
        config.http_protocol_class = cast("type[asyncio.Protocol]", protocol)
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    host, port = listener.getsockname()[:2]
    ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    ending = asyncio.create_task(_end(server, stop), name="server-stop")
    try:
        await server.main_loop()
        await server.shutdown(sockets=[listener])
    except asyncio.CancelledError:
        await _cut(server)
        raise
    finally:
        ending.cancel()


async def _cut(server: uvicorn.Server) -> None:
    """Stop at once: close every connection and let each request enter its outcome."""
    for listening in server.servers:
        listening.close()
    tasks = list(server.server_state.tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for connection in list(server.server_state.connections):
        connection.shutdown()


async def _end(server: uvicorn.Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.should_exit = True
