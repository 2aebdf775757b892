"""What the sidecar's API says, and how its errors travel. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from headrace.core.errors import (
    ArtifactError,
    CapacityError,
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    HeadraceError,
    InvalidRequest,
    NoEndpoint,
    Overloaded,
    RequestError,
    Unauthenticated,
)


class PutAdapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of ``PUT /v1/adapters/{name}``."""

    source: str
    digest: str | None = None
    rank: int | None = None


class AdapterReply(msgspec.Struct, frozen=True):
    """One adapter that the engine has; ``ours`` if it was loaded through this sidecar."""

    name: str
    path: str
    digest: str | None = None
    ours: bool = False


class FailureReply(msgspec.Struct, frozen=True):
    """An adapter that could not be loaded when it was last asked for."""

    name: str
    source: str
    digest: str | None
    why: str


class AdaptersReply(msgspec.Struct, frozen=True):
    """Body of ``GET /v1/adapters``: what the engine has, and what lately failed."""

    adapters: tuple[AdapterReply, ...] = ()
    failures: tuple[FailureReply, ...] = ()


class UnloadReply(msgspec.Struct, frozen=True):
    """Body of ``DELETE /v1/adapters/{name}``; ``unloaded`` is false if there was none."""

    unloaded: bool


class DrainReply(msgspec.Struct, frozen=True):
    """Body of ``GET /drain``.

    Attributes:
        why: What ended the wait: ``idle``, ``engine_gone`` or ``limit``.
        waited_s: Seconds from the call.
        running: Sequences in the engine's batch when last seen; null if it never said.
        waiting: Sequences in its queue likewise.
        looks: Times that it was seen.

    """

    why: str
    waited_s: float
    running: int | None
    waiting: int | None
    looks: int


class FetchReply(msgspec.Struct, frozen=True):
    """A fetch that is going on."""

    name: str
    source: str
    bytes: int
    total_bytes: int | None


class StateReply(msgspec.Struct, frozen=True):
    """Body of ``GET /state``.

    ``running``, ``waiting`` and ``kv_used_ratio`` are null until the engine has said them.
    """

    engine: str
    url: str
    health: str
    ready: bool
    draining: bool
    models: tuple[str, ...]
    running: int | None
    waiting: int | None
    kv_used_ratio: float | None
    adapters: tuple[AdapterReply, ...]
    fetches: tuple[FetchReply, ...]
    cache_bytes: int
    kv_relay: bool


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong."""

    type: str
    message: str
    field: str | None = None
    retry_safe: bool = False


class ErrorReply(msgspec.Struct, frozen=True):
    """Body of every answer that is not a success."""

    error: ErrorBody


STATUSES: Final[Mapping[type[HeadraceError], int]] = MappingProxyType(
    {
        InvalidRequest: 400,
        Unauthenticated: 401,
        Overloaded: 429,
        NoEndpoint: 503,
        EngineUnreachable: 502,
        EngineTimeout: 504,
        EngineRefused: 502,
        ArtifactError: 422,
    }
)
_BY_NAME: Final = MappingProxyType({kind.__name__: kind for kind in STATUSES})


def error_reply(error: HeadraceError) -> tuple[int, ErrorReply]:
    """Return the status and the body for an error; an artifact that may come later is a 503."""
    status = next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 500)
    field = error.field if isinstance(error, RequestError) else None
    safe = isinstance(error, CapacityError) or (
        isinstance(error, EngineError | ArtifactError) and error.retry_safe
    )
    if isinstance(error, ArtifactError) and safe:
        status = 503
    message = getattr(error, "message", str(error))
    return status, ErrorReply(ErrorBody(type(error).__name__, message, field, safe))


def error_from(status: int, body: bytes) -> HeadraceError:
    """Return the error that an answer of the sidecar stands for."""
    try:
        told = msgspec.json.decode(body, type=ErrorReply).error
    except msgspec.DecodeError:
        return EngineRefused(f"the sidecar answered {status}: {body[:200]!r}")
    kind = _BY_NAME.get(told.type, EngineRefused)
    if issubclass(kind, RequestError):
        return kind(told.message, field=told.field)
    if issubclass(kind, ArtifactError):
        return kind(told.message, retry_safe=told.retry_safe)
    return kind(told.message)
