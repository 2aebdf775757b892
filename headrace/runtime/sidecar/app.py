"""The sidecar's HTTP surface."""

from __future__ import annotations

import hmac

import msgspec
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.exceptions import HTTPException

from headrace import __version__
from headrace.core.errors import HeadraceError, InvalidRequest, Unauthenticated
from headrace.runtime.sidecar.beside import Sidecar
from headrace.runtime.sidecar.wire import (
    AdaptersReply,
    ErrorBody,
    ErrorReply,
    PutAdapter,
    UnloadReply,
    error_reply,
)

MOST_BODY_BYTES = 64 << 10
"""Longest body read; one names a source."""


def make_app(sidecar: Sidecar, registry: CollectorRegistry, key: str | None) -> FastAPI:
    """Build the application.

    Args:
        sidecar: What it speaks for.
        registry: Of its metrics.
        key: Bearer key that ``/v1/adapters`` asks for, or None.

    """
    app = FastAPI(title="Headrace runtime", version=__version__)

    @app.get("/healthz", summary="The sidecar is alive")
    async def healthz() -> Response:
        return _json(200, {"status": "ok"})

    @app.get("/ready", summary="The engine can serve")
    async def ready() -> Response:
        if sidecar.ready:
            return _json(200, {"status": "ready"})
        return _json(503, {"status": "not ready", "why": sidecar.why_not_ready})

    @app.get("/state", summary="All that is known of the engine")
    async def state() -> Response:
        return _json(200, await sidecar.state())

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(await sidecar.metrics(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/drain", summary="Stop being ready and wait until the engine is quiet")
    async def drain() -> Response:
        return _json(200, await sidecar.drain())

    _add_adapters(app, sidecar, key)
    _answer_errors(app)
    return app


def _add_adapters(app: FastAPI, sidecar: Sidecar, key: str | None) -> None:
    def authorise(request: Request) -> None:
        if key is None:
            return
        told = request.headers.get("authorization", "")
        if not hmac.compare_digest(told.encode("latin-1"), f"Bearer {key}".encode("latin-1")):
            raise Unauthenticated("expected the sidecar's key as 'Authorization: Bearer …'")

    @app.get("/v1/adapters", summary="Adapters that the engine has")
    async def adapters(request: Request) -> Response:
        authorise(request)
        return _json(200, AdaptersReply(await sidecar.adapters(), sidecar.failures))

    @app.put("/v1/adapters/{name:path}", summary="Have the engine serve an adapter")
    async def put(name: str, request: Request) -> Response:
        authorise(request)
        return _json(200, await sidecar.load(name, _body(await _read(request))))

    @app.delete("/v1/adapters/{name:path}", summary="Have the engine forget an adapter")
    async def delete(name: str, request: Request) -> Response:
        authorise(request)
        return _json(200, UnloadReply(await sidecar.unload(name)))


async def _read(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            raise InvalidRequest(f"expected at most {MOST_BODY_BYTES} bytes")
    return body


def _body(raw: bytes) -> PutAdapter:
    try:
        return msgspec.json.decode(raw, type=PutAdapter)
    except msgspec.DecodeError as error:
        field = str(error).partition("`$.")[2].rstrip("`") or None
        expected = '{"source": URI, "digest": "sha256:…" or null, "rank": integer or null}'
        raise InvalidRequest(f"{error}; expected {expected}", field=field) from None


def _answer_errors(app: FastAPI) -> None:
    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, HeadraceError)
        status, body = error_reply(error)
        return _json(status, body)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return _json(error.status_code, ErrorReply(ErrorBody("InvalidRequest", what)))

    app.add_exception_handler(HeadraceError, ours)
    app.add_exception_handler(HTTPException, http)


def _json(status: int, value: object) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
