"""The one table from errors to HTTP, and to outcomes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from headrace.core.errors import (
    BodyTooLarge,
    CapacityError,
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    HeadraceError,
    InvalidRequest,
    ModelNotFound,
    NoEndpoint,
    Overloaded,
    RequestError,
    StreamBroken,
    Unauthenticated,
    UnsupportedMedia,
)
from headrace.core.outcome import Outcome

JSON_TYPE: Final = (b"content-type", b"application/json")

MAX_ECHO_CHARS: Final = 512
"""Longest message of an error; what the client sent may be quoted in it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """How one kind of error is told to a client, in OpenAI's words."""

    status: int
    type: str
    code: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply to a client."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"

INTERNAL: Final = Problem(500, _SERVER, "internal_error", Outcome.INTERNAL_ERROR)

PROBLEMS: Final[Mapping[type[HeadraceError], Problem]] = {
    InvalidRequest: Problem(400, _INVALID, "invalid_request", Outcome.REFUSED_INVALID),
    Unauthenticated: Problem(401, _INVALID, "invalid_api_key", Outcome.REFUSED_AUTH),
    ModelNotFound: Problem(404, _INVALID, "model_not_found", Outcome.REFUSED_INVALID),
    BodyTooLarge: Problem(413, _INVALID, "body_too_large", Outcome.REFUSED_INVALID),
    UnsupportedMedia: Problem(415, _INVALID, "unsupported_media_type", Outcome.REFUSED_INVALID),
    Overloaded: Problem(429, "rate_limit_error", "overloaded", Outcome.REFUSED_FULL),
    NoEndpoint: Problem(503, _SERVER, "no_endpoint", Outcome.REFUSED_FULL),
    EngineUnreachable: Problem(502, _SERVER, "engine_unreachable", Outcome.ENGINE_FAILED),
    EngineRefused: Problem(502, _SERVER, "engine_failed", Outcome.ENGINE_FAILED),
    EngineTimeout: Problem(504, _SERVER, "engine_timeout", Outcome.ENGINE_FAILED),
    StreamBroken: Problem(502, _SERVER, "stream_broken", Outcome.ENGINE_FAILED),
}


def problem_of(error: HeadraceError) -> Problem:
    """Return the row for ``error`` or what it derives from; one we do not know is our own fault."""
    return next((PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS), INTERNAL)


def reply_to(error: HeadraceError) -> Reply:
    """Return what the client is answered; only messages meant for clients are shown."""
    problem = problem_of(error)
    field = error.field if isinstance(error, RequestError) else None
    message = str(error)
    if isinstance(error, RequestError | CapacityError | EngineError):
        message = error.message
    headers = [JSON_TYPE]
    if isinstance(error, CapacityError):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    return Reply(problem.status, tuple(headers), error_body(message, problem, field))


def error_body(message: str, problem: Problem, field: str | None = None) -> bytes:
    """Write an error in OpenAI's shape."""
    return orjson.dumps(
        {
            "error": {
                "message": clean(message),
                "type": problem.type,
                "param": None if field is None else clean(field),
                "code": problem.code,
            }
        }
    )


def error_event(message: str, problem: Problem) -> bytes:
    """Write an error as a server-sent event: the end of a stream that broke."""
    return b"data: " + error_body(message, problem) + b"\n\n"


def clean(text: str) -> str:
    """Cut a text that may quote a client to a bounded length, without lone surrogates."""
    return text[:MAX_ECHO_CHARS].encode("utf-8", "replace").decode()
