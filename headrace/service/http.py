"""The one HTTP client for probes, admin calls and replay: every limit is stated. Opens sockets."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on an HTTP client; a duration of None means no limit of that kind.

    Attributes:
        connections: Connections in all; more requests wait for one.
        connections_per_host: Connections to one host and port.
        connect_s: To get a connection, waiting for a free one included.
        read_s: Between two reads of a reply: the idle limit of a stream.
        total_s: From the call to the end of the reply.
        keepalive_s: How long an idle connection is kept.
        header_bytes: Longest header line, and longest status line, of a reply.
        read_buffer_bytes: Body bytes held before the socket is paused.

    """

    connections: int = 256
    connections_per_host: int = 64
    connect_s: float | None = 5.0
    read_s: float | None = 30.0
    total_s: float | None = 60.0
    keepalive_s: float = 30.0
    header_bytes: int = 16_384
    read_buffer_bytes: int = 65_536


def make_session(limits: HttpLimits, key: SecretStr | None = None) -> aiohttp.ClientSession:
    """Open a client session that obeys ``limits``; the caller closes it.

    Sends ``key``, where there is one, as a bearer key with every request.

    Proxies of the environment are ignored (workers are near) and cookies are not kept.
    Must be called with an event loop running.
    """
    connector = aiohttp.TCPConnector(
        limit=limits.connections,
        limit_per_host=limits.connections_per_host,
        keepalive_timeout=limits.keepalive_s,
        ttl_dns_cache=30,
    )
    timeout = aiohttp.ClientTimeout(
        total=limits.total_s, connect=limits.connect_s, sock_read=limits.read_s
    )
    headers = None if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
    return aiohttp.ClientSession(
        headers=headers,
        connector=connector,
        timeout=timeout,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=limits.read_buffer_bytes,
        max_line_size=limits.header_bytes,
        max_field_size=limits.header_bytes,
    )
