"""The ASGI application: relayed routes go straight to ``serve``, FastAPI answers the others."""

from __future__ import annotations

from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from gateway.dispatch import PATHS
from gateway.downstream import Downstream, Message, Receive, Send
from gateway.errors import Problem, Reply, error_body, reply_to
from gateway.keys import Keys
from gateway.openai import Kind
from gateway.reference import add_relayed_routes
from gateway.serve import Service
from headrace import __version__
from headrace.core.endpoint import Health, Role
from headrace.core.errors import HeadraceError, InvalidRequest, ModelNotFound, NoEndpoint
from headrace.core.outcome import Outcome
from router.router import Router

KINDS: Final[dict[str, Kind]] = {path: kind for kind, path in PATHS.items()}

LANDING: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Headrace</title>
<style>body{font:16px/1.5 system-ui;max-width:40rem;margin:3rem auto;padding:0 1rem}</style>
<h1>Headrace</h1><p>An OpenAI-compatible gateway. Point a client at <code>/v1</code>.</p>
<ul><li><a href="/v1/models">Models</a></li><li><a href="/docs">API</a></li>
<li><a href="/ready">Ready</a></li><li><a href="/metrics">Metrics</a></li></ul></html>"""


class Gateway:
    """The outermost ASGI callable."""

    def __init__(self, service: Service, cold: FastAPI) -> None:
        self._service = service
        self._cold = cold

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Take one request off the server."""
        kind = KINDS.get(scope["path"]) if scope["type"] == "http" else None
        if kind is None:
            await self._cold(scope, receive, send)
            return
        if scope["method"] != "POST":
            await _wrong_method(scope, receive, send)
            return
        await self._service.serve(kind, dict(scope["headers"]), Downstream(receive, send))


async def _wrong_method(scope: Message, receive: Receive, send: Send) -> None:
    problem = Problem(405, "invalid_request_error", "method_not_allowed", Outcome.REFUSED_INVALID)
    body = error_body(f"{scope['method']} {scope['path']}: expected POST", problem)
    await _response(Reply(405, ((b"allow", b"POST"),), body))(scope, receive, send)


def cold_app(router: Router, keys: Keys, registry: CollectorRegistry) -> FastAPI:
    """Build the FastAPI application that answers everything but relayed requests."""
    app = FastAPI(title="Headrace", version=__version__, openapi_url="/openapi.json")

    def authorise(request: Request) -> None:
        header = request.headers.get("authorization")
        keys.tenant(None if header is None else header.encode("latin-1"))

    def card(name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "headrace"}

    @app.get("/v1/models", summary="Models served")
    async def models(request: Request) -> dict[str, object]:
        authorise(request)
        return {"object": "list", "data": [card(name) for name in router.models()]}

    @app.get("/v1/models/{name:path}", summary="One model")
    async def model(name: str, request: Request) -> dict[str, object]:
        authorise(request)
        if name not in router.models():
            raise ModelNotFound(f"the model {name!r} does not exist", field="model")
        return card(name)

    _add_operations(app, router, registry)
    _answer_errors(app)
    add_relayed_routes(app)
    return app


def _add_operations(app: FastAPI, router: Router, registry: CollectorRegistry) -> None:
    """Add what operators and probes ask for; none of it needs a key."""

    @app.get("/", include_in_schema=False)
    async def landing() -> HTMLResponse:
        return HTMLResponse(LANDING)

    @app.get("/health", summary="The process is alive")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="An endpoint is ready")
    async def ready() -> dict[str, int | str]:
        views = router.endpoints()
        count = sum(v.health is Health.READY and v.role is not Role.PREFILL for v in views)
        if not count:
            raise NoEndpoint("no endpoint is ready yet")
        return {"status": "ready", "endpoints": count}

    @app.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _answer_errors(app: FastAPI) -> None:
    """Answer every error in OpenAI's shape."""

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, HeadraceError)
        return _response(reply_to(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.url.path[:200]}: {error.detail}"
        problem = Problem(
            error.status_code, "invalid_request_error", "invalid_request", Outcome.REFUSED_INVALID
        )
        body = error_body(what, problem)
        headers = tuple((k.encode(), v.encode()) for k, v in (error.headers or {}).items())
        return _response(Reply(error.status_code, headers, body))

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return _response(reply_to(InvalidRequest(first["msg"], field=str(first["loc"][-1]))))

    app.add_exception_handler(HeadraceError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _response(reply: Reply) -> Response:
    headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in reply.headers}
    return Response(reply.body, reply.status, headers, media_type="application/json")
