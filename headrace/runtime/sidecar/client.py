"""Calls to a sidecar. Touches the network through the session it is given."""

from __future__ import annotations

from typing import Final, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from headrace.core.adapter import AdapterSpec
from headrace.core.errors import EngineRefused, EngineTimeout, EngineUnreachable
from headrace.core.ids import ModelName
from headrace.runtime.adapters import LoadedAdapter
from headrace.runtime.sidecar.wire import (
    AdapterReply,
    AdaptersReply,
    DrainReply,
    PutAdapter,
    StateReply,
    UnloadReply,
    error_from,
)

T = TypeVar("T")

MOST_REPLY_BYTES: Final = 16 << 20
"""Longest reply read: 10,000 adapters are 3 MB."""


class SidecarClient:
    """The API of one sidecar.

    Every method raises EngineUnreachable when nothing listens or the connection breaks,
    EngineTimeout past the limit, EngineRefused for an answer that is not as expected, and what the
    sidecar itself raised: see ``AdapterHost``. A session made with a key sends it.

    Args:
        session: Where the connections are; its own total limit does not apply.
        url: ``EndpointView.runtime_url``, without a trailing slash.
        timeout_s: For what answers at once.
        load_s: For loading an adapter, its download included.

    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        timeout_s: float = 5.0,
        load_s: float = 600.0,
    ) -> None:
        self._session = session
        self._url = url
        self._timeout_s = timeout_s
        self._load_s = load_s

    async def ready(self) -> bool:
        """Return whether the engine can serve."""
        status, _ = await self._call("GET", "/ready", self._timeout_s)
        return status == 200

    async def state(self) -> StateReply:
        """Return all that the sidecar knows."""
        return await self._get("/state", StateReply, self._timeout_s)

    async def loaded(self) -> tuple[LoadedAdapter, ...]:
        """Return the adapters that the engine has, in order of name."""
        return tuple(map(_adapter, (await self.adapters_told()).adapters))

    async def adapters_told(self) -> AdaptersReply:
        """Return the same as the sidecar says it, with what lately failed to load."""
        return await self._get("/v1/adapters", AdaptersReply, self._timeout_s)

    async def load(self, spec: AdapterSpec) -> LoadedAdapter:
        """Have the engine serve an adapter; returns at once when it does already."""
        body = msgspec.json.encode(PutAdapter(spec.source, spec.digest, spec.rank))
        reply = await self._call("PUT", _path(spec.name), self._load_s, body)
        return _adapter(_read(reply, AdapterReply))

    async def unload(self, name: ModelName) -> bool:
        """Have the engine forget an adapter; False if it had none of that name."""
        reply = await self._call("DELETE", _path(name), self._load_s)
        return _read(reply, UnloadReply).unloaded

    async def drain(self, limit_s: float) -> DrainReply:
        """Have the engine stop being ready; return when it is quiet.

        Args:
            limit_s: Of this call; the sidecar has a limit of its own.

        """
        return await self._get("/drain", DrainReply, limit_s)

    async def _get(self, path: str, kind: type[T], timeout_s: float) -> T:
        return _read(await self._call("GET", path, timeout_s), kind)

    async def _call(
        self, method: str, path: str, timeout_s: float, body: bytes | None = None
    ) -> tuple[int, bytes]:
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=body,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as reply:
                read = b""
                async for piece in reply.content.iter_any():
                    read += piece
                    if len(read) > MOST_REPLY_BYTES:
                        raise EngineRefused(f"{self._url}{path}: over {MOST_REPLY_BYTES} bytes")
                return reply.status, read
        except TimeoutError:
            raise EngineTimeout(f"{self._url}{path}: nothing in {timeout_s} s") from None
        except aiohttp.ClientError as error:
            raise EngineUnreachable(f"{self._url}{path}: {error}") from None


def _read(reply: tuple[int, bytes], kind: type[T]) -> T:
    status, body = reply
    if status != 200:
        raise error_from(status, body)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise EngineRefused(f"the sidecar's answer cannot be read: {error}") from None


def _adapter(reply: AdapterReply) -> LoadedAdapter:
    return LoadedAdapter(ModelName(reply.name), reply.path, reply.digest, reply.ours)


def _path(name: str) -> str:
    return f"/v1/adapters/{quote(name, safe='')}"
