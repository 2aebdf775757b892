"""Opens the socket that a server listens on."""

from __future__ import annotations

import socket

from headrace.core.errors import ConfigError


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
