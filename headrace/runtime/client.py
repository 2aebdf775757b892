"""Asks one engine about itself over HTTP. Touches the network through the session it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec

from headrace.core.endpoint import ModelFiles
from headrace.core.errors import EngineError, EngineRefused, EngineTimeout, EngineUnreachable
from headrace.core.ids import ModelName
from headrace.runtime.metrics_text import EngineReport, parse_metrics


class _Model(msgspec.Struct, frozen=True):
    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


class _Models(msgspec.Struct, frozen=True):
    data: tuple[_Model, ...] = ()


def _files(model: _Model) -> ModelFiles | None:
    if model.root is None:
        return None
    return ModelFiles(model.root, None if model.parent is None else ModelName(model.parent))


@dataclass(frozen=True, slots=True)
class ServedModels:
    """The names an engine answers to, base models first, and the longest context of any of them.

    ``files`` says where each name's files lie, in the same order, as far as the engine tells.
    """

    names: tuple[ModelName, ...]
    max_model_tokens: int | None = None
    files: tuple[ModelFiles | None, ...] = ()


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What one call may take: seconds, and bytes of reply."""

    timeout_s: float = 2.0
    reply_bytes: int = 4 << 20


DP_RANK_HEADER: Final = "X-data-parallel-rank"
"""Picks the data parallel rank that serves a request. Source: vLLM 0.32.0, its OpenAI server."""

NOT_GENERATING: Final = frozenset({400, 404, 405, 422})
"""Statuses of an engine that is alive and does not do completions (an embedding model, say)."""


class EngineClient:
    """Calls to one engine.

    Every method raises EngineUnreachable when nothing listens or the connection breaks,
    EngineTimeout past the limit, and EngineRefused for a status or a body that is not as expected.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        limits: ClientLimits,
        *,
        dp_rank: int | None = None,
    ) -> None:
        self._headers = {} if dp_rank is None else {DP_RANK_HEADER: str(dp_rank)}
        self._dp_rank = dp_rank
        self._session = session
        self._url = url
        self._limits = limits

    async def health(self) -> None:
        """Return when the engine says that it is well."""
        await self._get("/health")

    async def models(self) -> ServedModels:
        """Return what it serves."""
        body = await self._get("/v1/models")
        try:
            models = msgspec.json.decode(body, type=_Models).data
        except msgspec.DecodeError as error:
            raise EngineRefused(f"{self._url}/v1/models: {error}") from None
        ordered = sorted(models, key=lambda model: model.parent is not None)  # stable
        lengths = [model.max_model_len for model in models if model.max_model_len]
        return ServedModels(
            tuple(ModelName(model.id) for model in ordered),
            max(lengths, default=None),
            tuple(_files(model) for model in ordered),
        )

    async def report(self) -> EngineReport:
        """Return its metrics page, read."""
        return parse_metrics(
            (await self._get("/metrics")).decode("utf-8", "replace"), self._dp_rank
        )

    async def generate_one(self, model: ModelName, prompt: Sequence[int], timeout_s: float) -> bool:
        """Have it generate one token; return False when it does not do completions at all."""
        body = msgspec.json.encode(
            {
                "model": model,
                "prompt": list(prompt),
                "max_tokens": 1,
                "temperature": 0,
                "ignore_eos": True,
            }
        )
        status, reply = await self._call("POST", "/v1/completions", timeout_s, body)
        if status in NOT_GENERATING:
            return False
        if status != 200:
            raise EngineRefused(f"{self._url}/v1/completions: {status}: {reply[:200]!r}")
        return True

    async def tokenize(self, body: bytes) -> list[int]:
        """Return the tokens that it makes of a body for its ``/tokenize``."""
        status, reply = await self._call("POST", "/tokenize", self._limits.timeout_s, body)
        if status != 200:
            raise EngineRefused(f"{self._url}/tokenize: {status}: {reply[:200]!r}")
        try:
            return msgspec.json.decode(reply, type=_Tokens).tokens
        except msgspec.DecodeError as error:
            raise EngineRefused(f"{self._url}/tokenize: {error}") from None

    async def post(
        self, path: str, body: Mapping[str, object], timeout_s: float | None = None
    ) -> tuple[int, bytes]:
        """Send a body as JSON; return the status and the reply, whatever they are."""
        limit_s = self._limits.timeout_s if timeout_s is None else timeout_s
        return await self._call("POST", path, limit_s, msgspec.json.encode(body))

    async def _get(self, path: str) -> bytes:
        status, body = await self._call("GET", path, self._limits.timeout_s, None)
        if status != 200:
            raise EngineRefused(f"{self._url}{path}: {status}")
        return body

    async def _call(
        self, method: str, path: str, timeout_s: float, body: bytes | None
    ) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        headers = self._headers
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as reply:
                return reply.status, await self._read(reply)
        except TimeoutError:
            raise EngineTimeout(f"{self._url}{path}: nothing in {timeout_s} s") from None
        except aiohttp.ClientError as error:
            raise EngineUnreachable(f"{self._url}{path}: {error}") from None

    async def _read(self, reply: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for chunk in reply.content.iter_any():
            size += len(chunk)
            if size > self._limits.reply_bytes:
                raise EngineRefused(f"{reply.url}: longer than {self._limits.reply_bytes} bytes")
            parts.append(chunk)
        return b"".join(parts)


__all__ = ["ClientLimits", "EngineClient", "EngineError", "ServedModels"]
