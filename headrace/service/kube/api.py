"""One client of one API server: limits stated, calls counted, errors typed. Opens sockets.

Bodies are decoded once into plain dicts: with thousands of pods, model classes would cost most.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ssl import SSLContext
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal

import aiohttp
import orjson

from headrace.service.kube.errors import KubeRefused, KubeUnreachable, error_of
from headrace.service.kube.resource import Resource

Verb = Literal["get", "list", "watch", "create", "update", "patch", "apply", "delete"]

WRITES: Final = frozenset({"create", "update", "patch", "apply", "delete"})

_METHODS: Final[Mapping[Verb, tuple[str, str]]] = MappingProxyType(
    {
        "get": ("GET", ""),
        "list": ("GET", ""),
        "watch": ("GET", ""),
        "create": ("POST", "application/json"),
        "update": ("PUT", "application/json"),
        "patch": ("PATCH", "application/merge-patch+json"),
        "apply": ("PATCH", "application/apply-patch+yaml"),  # JSON is YAML
        "delete": ("DELETE", "application/json"),
    }
)

_KEEPALIVE: Final = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""A peer that is gone without a word is noticed after 15 + 3 * 5 seconds, where the system can."""

Authorize = Callable[[bool], Awaitable[str | None]]
"""Returns the ``Authorization`` header; True asks for one made anew."""


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """Bounds on a client.

    Attributes:
        connections: At once; each watch keeps one.
        connect_s: To get a connection, waiting for a free one included.
        answer_s: For a whole call; watches have limits of their own.
        answer_bytes: Longest body of an answer: a page of 500 objects has some megabytes.

    """

    connections: int = 64
    connect_s: float = 5.0
    answer_s: float = 30.0
    answer_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class Server:
    """Where the API is.

    Attributes:
        url: Without a trailing slash.
        tls: What to check its certificate by, and what to show.
        tls_name: The name its certificate is for, where that is not the URL's.
        proxy: To go through.

    """

    url: str
    tls: SSLContext | None = None
    tls_name: str | None = None
    proxy: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of the API."""

    verb: Verb
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def subject(self) -> str:
        """What it is counted under."""
        title = self.resource.title
        return f"{title}/{self.subresource}" if self.subresource else title


class Api:
    """A client; ``calls`` counts its calls by verb and subject. Belongs to one event loop.

    Every method raises ``KubeError``.
    """

    def __init__(self, server: Server, authorize: Authorize, limits: ApiLimits) -> None:
        self._server = server
        self._authorize = authorize
        self._limits = limits
        self.calls: Counter[tuple[str, str]] = Counter()
        connector = aiohttp.TCPConnector(
            limit=limits.connections,
            limit_per_host=limits.connections,
            ssl=server.tls if server.tls is not None else True,
            socket_factory=_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Accept": "application/json", "User-Agent": "headrace"},
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._server.url

    @property
    def writes(self) -> int:
        """Calls so far that change something."""
        return sum(count for (verb, _), count in self.calls.items() if verb in WRITES)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any]:
        """Read one object as it is now."""
        return await self.send(Call("get", resource, namespace, name))

    async def send(
        self, call: Call, body: object = None, params: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Make one call and return the object, list or ``Status`` that comes back.

        Args:
            call: What is asked.
            body: Sent as JSON; None sends none.
            params: Of the query.

        """
        total = aiohttp.ClientTimeout(total=self._limits.answer_s, connect=self._limits.connect_s)
        async with self._answer(call, body, params, total) as answer:
            read = await self._read(answer)
        decoded = _decoded(read)
        if not isinstance(decoded, dict):
            raise KubeUnreachable(f"{self._server.url} answers, but not as an API server does")
        return decoded

    @asynccontextmanager
    async def stream(
        self, call: Call, params: Mapping[str, str], read_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch; its chunks of bytes end when the server ends it.

        Args:
            call: What is asked.
            params: Of the query.
            read_s: Longest silence; longer is ``KubeUnreachable``.

        """
        limits = aiohttp.ClientTimeout(total=None, connect=self._limits.connect_s, sock_read=read_s)
        async with self._answer(call, None, params, limits) as answer:
            yield answer.content.iter_any()

    @asynccontextmanager
    async def _answer(
        self,
        call: Call,
        body: object,
        params: Mapping[str, str] | None,
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield an answer that is a success; an account that is not known is renewed once."""
        self.calls[call.verb, call.subject] += 1
        data = None if body is None else orjson.dumps(body)
        try:
            answer = await self._request(call, data, params, limits, fresh=False)
            if answer.status == 401:
                answer.release()
                answer = await self._request(call, data, params, limits, fresh=True)
            async with answer:
                if answer.status >= 400:
                    said = _decoded(await self._read(answer))
                    raise error_of(answer.status, said, answer.headers.get("Retry-After"))
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            raise KubeUnreachable(f"{self._server.url}: {why}") from None

    async def _request(
        self,
        call: Call,
        data: bytes | None,
        params: Mapping[str, str] | None,
        limits: aiohttp.ClientTimeout,
        *,
        fresh: bool,
    ) -> aiohttp.ClientResponse:
        method, content_type = _METHODS[call.verb]
        authorization = await self._authorize(fresh)
        headers = {"Content-Type": content_type} if data is not None else {}
        if authorization is not None:
            headers["Authorization"] = authorization
        return await self._session.request(
            method,
            self._server.url + call.resource.path(call.namespace, call.name, call.subresource),
            params=params,
            data=data,
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            server_hostname=self._server.tls_name,
            proxy=self._server.proxy,
        )

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        chunks: list[bytes] = []
        room = self._limits.answer_bytes
        async for chunk in answer.content.iter_any():
            room -= len(chunk)
            if room < 0:
                raise KubeRefused(f"an answer is longer than {self._limits.answer_bytes} bytes")
            chunks.append(chunk)
        return b"".join(chunks)


def _decoded(read: bytes) -> object:
    """Return what JSON says; whatever is not JSON is said by nobody who matters: ``None``."""
    try:
        return orjson.loads(read)
    except orjson.JSONDecodeError:
        return None


def _socket(
    address: tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, Any],
) -> socket.socket:
    made = socket.socket(address[0], address[1], address[2])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
