"""Routes of one simulated engine: from a request to the host and back.

Touches the exchange and the host. Nothing here waits: answers come when the host calls back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace

from headrace.core.errors import InvalidRequest
from headrace.service.log import get_logger
from headrace.simulator.http import embedding, small
from headrace.simulator.http.errors import ApiError, bad, not_decoded, unsupported_media
from headrace.simulator.http.events import unix_s
from headrace.simulator.http.exchange import Exchange, HttpRequest, header_lines
from headrace.simulator.http.faults import FaultRequest
from headrace.simulator.http.generation import Generation
from headrace.simulator.http.host import Host
from headrace.simulator.http.metrics import exposition
from headrace.simulator.http.prepare import (
    Job,
    Site,
    chat_job,
    completion_job,
    transferred_tokens,
)
from headrace.simulator.http.replies import Cut, StreamReply, WholeReply
from headrace.simulator.http.shapes import Envelope
from headrace.simulator.http.wire import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    LoadAdapter,
    TokenizeRequest,
    UnloadAdapter,
    read,
)
from kvcache.shell.publisher import EventPublisher

_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_TEXT = b"text/plain; charset=utf-8"
_MAX_ID_CHARS = 256

Route = Callable[[HttpRequest, Exchange], None]
Control = Callable[[FaultRequest], Mapping[str, object]]

_log = get_logger("simulator")


class App:
    """What one engine answers; a restart makes another.

    Args:
        site: What requests are checked against.
        host: The engine.
        publisher: Of its KV events, or None.
        cache_config: Labels of ``vllm:cache_config_info``.
        control: Carries out a fault; shared by the engines of a process.

    """

    def __init__(
        self,
        site: Site,
        host: Host,
        publisher: EventPublisher | None,
        cache_config: Mapping[str, str],
        control: Control,
    ) -> None:
        self.site = site
        self.host = host
        self._publisher = publisher
        self._cache_config = cache_config
        self._control = control
        self._serial = 0
        self._routes: dict[str, dict[str, Route]] = {
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/completions": {"POST": self._completions},
            "/v1/embeddings": {"POST": self._embeddings},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/health": {"GET": self._ok},
            "/ping": {"GET": self._ok, "POST": self._ok},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._metrics},
            "/v1/load_lora_adapter": {"POST": self._load_adapter},
            "/v1/unload_lora_adapter": {"POST": self._unload_adapter},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
            "/kv_event_sources": {"GET": self._event_sources},
            "/headrace/fault": {"POST": self._fault, "GET": self._faults},
        }

    def handle(self, request: HttpRequest, exchange: Exchange) -> None:
        """Answer one request, now or when the host calls back."""
        methods = self._routes.get(request.path)
        if methods is None:
            exchange.reply(404, b'{"detail":"Not Found"}')
            return
        route = methods.get(request.method)
        if route is None:
            exchange.reply(405, b'{"detail":"Method Not Allowed"}')
            return
        try:
            route(request, exchange)
        except ApiError as refusal:
            exchange.reply(refusal.status, refusal.body())
        except InvalidRequest as refusal:
            exchange.reply(400, bad(refusal.message).body())
        except RecursionError as error:
            exchange.reply(400, not_decoded(error).body())
        except Exception as error:  # noqa: BLE001 -- the request boundary: logged, answered
            _log.error("request_failed", path=request.path, exc_info=error)
            exchange.reply(
                500, ApiError(500, "Internal server error", "InternalServerError").body()
            )

    # Generating

    def _chat(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(ChatRequest, _json_body(request))
        self._refuse_by_fault()
        self._start(chat_job(body, self.site), request, exchange)

    def _completions(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(CompletionRequest, _json_body(request))
        self._refuse_by_fault()
        self._start(completion_job(body, self.site), request, exchange)

    def _refuse_by_fault(self) -> None:
        refusal = self.host.faults.refuse(self.host.rng)
        if refusal is not None:
            raise refusal

    def _start(self, job: Job, request: HttpRequest, exchange: Exchange) -> None:
        """Queue the sequences, then open the reply; a request the engine refuses has no stream."""
        told = request.headers.get(b"x-request-id", b"").decode("latin-1")[:_MAX_ID_CHARS]
        if told:
            exchange.headers = header_lines([("x-request-id", told)])
        name = told or (job.sampling.request_id or "")[:_MAX_ID_CHARS] or uuid.uuid4().hex
        envelope = Envelope(
            answer_id=("chatcmpl-" if job.chat else "cmpl-") + name,
            created=int(unix_s()),
            model=job.model,
            chat=job.chat,
        )
        priority = job.sampling.priority or 0
        for generation in job.generations:
            generation.describe(
                self._engine_id(),
                priority=priority,
                transferred_tokens=transferred_tokens(
                    job.sampling.kv_transfer_params, len(generation.prompt.ids)
                ),
            )
        self._submit(job.generations, exchange)
        if job.sampling.stream:
            after = self.host.faults.cut_at(self.host.rng)
            cut = None if after is None else Cut(after, self.host.faults.cut_how)
            StreamReply(job, envelope, exchange, cut)
        else:
            WholeReply(job, envelope, exchange)

    def _embeddings(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(EmbeddingRequest, _json_body(request))
        self._refuse_by_fault()
        job = embedding.embedding_job(body, self.site)
        for generation in job.generations:
            generation.describe(self._engine_id(), share=False)
        self._submit(job.generations, exchange)
        embedding.EmbeddingReply(job, exchange, int(unix_s()))

    def _submit(self, generations: list[Generation], exchange: Exchange) -> None:
        self.host.submit(generations)
        exchange.on_gone = lambda: self.host.abort(generations)

    def _engine_id(self) -> str:
        """Return an id for the engine; the client's own need not be unique."""
        self._serial += 1
        return str(self._serial)

    # The rest

    def _models(self, _request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, small.models(self.site, int(unix_s())))

    def _tokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, small.tokenize(read(TokenizeRequest, _json_body(request)), self.site))

    def _detokenize(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(DetokenizeRequest, _json_body(request))
        exchange.reply(200, small.detokenize(body, self.site))

    def _ok(self, _request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, b"")

    def _version(self, _request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, small.VERSION)

    def _load(self, _request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, b'{"server_load":%d}' % self.host.queued)

    def _metrics(self, _request: HttpRequest, exchange: Exchange) -> None:
        facts = replace(
            self.host.facts(),
            running_adapters=tuple(self.host.engine.adapters()[0]),
            adapters_at_s=unix_s(),
            cache_config=self._cache_config,
        )
        page = exposition(self.site.names[0], facts, self.host.stats)
        exchange.reply(200, page, _METRICS_TYPE)

    def _load_adapter(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(LoadAdapter, _json_body(request))
        inplace = bool(body.load_inplace)
        said = self.site.adapters.load(body.lora_name, body.lora_path, inplace=inplace)
        exchange.reply(200, said.encode(), _TEXT)

    def _unload_adapter(self, request: HttpRequest, exchange: Exchange) -> None:
        body = read(UnloadAdapter, _json_body(request))
        exchange.reply(200, self.site.adapters.unload(body.lora_name).encode(), _TEXT)

    def _reset_prefix_cache(self, _request: HttpRequest, exchange: Exchange) -> None:
        cleared = self.host.engine.clear_prefix_cache()
        exchange.reply(200, b'{"cleared":true}' if cleared else b'{"cleared":false}')

    def _event_sources(self, _request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, small.event_sources(self._publisher))

    def _fault(self, request: HttpRequest, exchange: Exchange) -> None:
        fault = read(FaultRequest, _json_body(request))
        exchange.reply(200, small.dumps(self._control(fault)))

    def _faults(self, _request: HttpRequest, exchange: Exchange) -> None:
        exchange.reply(200, small.dumps(small.active(self.host.faults)))


def _json_body(request: HttpRequest) -> bytes:
    """Return the body of a request that says it is JSON.

    Raises:
        ApiError: 400, as vLLM has it, if it does not say so.

    """
    media = request.headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower()
    if media != b"application/json":
        raise unsupported_media()
    return request.body
