"""Judges whole replies of engines: whose fault, what was used, what the client may see. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gateway.errors import PROBLEMS, error_body
from gateway.sse import CHUNK, Chunk
from headrace.core.errors import EngineRefused, InvalidRequest, NoEndpoint, Overloaded
from headrace.core.outcome import Outcome
from headrace.core.record import Usage


@dataclass(frozen=True, slots=True)
class Judged:
    """A reply that may go to the client."""

    outcome: Outcome
    content_type: bytes
    body: bytes
    usage: Usage | None


def judge(status: int, content_type: bytes, body: bytes) -> Judged:
    """Decide what to do with a reply that is not a stream.

    2xx is served, unless a choice ended in ``abort``: vLLM that is shutting down answers 200 with
    no text. Other 4xx than 401, 403 and 429 blame the request and are passed on.

    Raises:
        EngineRefused: if the engine failed; another may do better.
        NoEndpoint: if it has no room (503).
        Overloaded: if it limits our rate (429).

    """
    if status == 429:
        raise Overloaded("the engines are at their limit")
    if status == 503:
        raise NoEndpoint("no engine has room for the request now")
    if status in (401, 403):
        raise EngineRefused("an engine does not accept the gateway's key")
    if not (200 <= status < 300 or 400 <= status < 500):
        raise EngineRefused(f"an engine answered with status {status}")
    chunk = _read(body)
    if status >= 400:
        return _refused(content_type, body, chunk)
    if chunk is None:
        return Judged(Outcome.SERVED, content_type, body, None)
    if any(choice.finish_reason == "abort" for choice in chunk.choices or ()):
        raise EngineRefused("the engine aborted the request")
    usage = None if chunk.usage is None else chunk.usage.usage()
    return Judged(Outcome.SERVED, content_type, body, usage)


def _read(body: bytes) -> Chunk | None:
    try:
        return CHUNK.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _refused(content_type: bytes, body: bytes, chunk: Chunk | None) -> Judged:
    """Pass an engine's refusal on if it is in OpenAI's shape, else put it into that."""
    if chunk is None or chunk.error is None or isinstance(chunk.error, str):
        content_type = b"application/json"
        body = error_body("the engine refused the request", PROBLEMS[InvalidRequest])
    return Judged(Outcome.REFUSED_INVALID, content_type, body, None)
