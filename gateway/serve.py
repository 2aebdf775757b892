"""The life of a request, top to bottom: admit, read, choose, forward, record. Uses asyncio."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from gateway.accounting import Account, Accounts
from gateway.admission import Admission, client_request_id
from gateway.config import GatewaySettings
from gateway.errors import INTERNAL, JSON_TYPE, Reply, error_body, problem_of, reply_to
from gateway.forward import STREAM_HEADERS, ClientGone, Exchange, Sink
from gateway.openai import Kind, Parsed, parse
from gateway.prompt import BLOCK_BYTES, TOKEN_BYTES, TokenRates
from gateway.retry import Circuit, retry_reason
from gateway.sse import CHUNK, StreamMeter
from gateway.upstream import Upstream
from headrace.core.clock import Clock
from headrace.core.endpoint import EndpointView
from headrace.core.errors import EngineRefused, HeadraceError, NoEndpoint, Overloaded
from headrace.core.ids import EndpointId, RequestId
from headrace.core.outcome import Outcome
from headrace.core.record import Usage
from headrace.core.request import RouteRequest
from headrace.service.log import get_logger
from headrace.service.telemetry import Telemetry
from router.decide import Decision
from router.router import Router

PATHS: Final[Mapping[Kind, str]] = {
    Kind.CHAT: "/v1/chat/completions",
    Kind.COMPLETION: "/v1/completions",
    Kind.EMBEDDING: "/v1/embeddings",
    Kind.TOKENIZE: "/tokenize",
}
"""Where each kind of request comes in, and where it goes out to an engine."""

BUSY_STATUSES: Final = frozenset({429, 503})
"""Statuses by which an engine says that it takes no more for now."""

_log = get_logger("gateway")


class Client(Sink, Protocol):
    """The client's side of one exchange."""

    async def flushed(self, limit_s: float) -> None:
        """Wait until the client took what was sent, or is gone; TimeoutError past the limit."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service works with; built once, by ``gateway.process``."""

    router: Router
    upstream: Upstream
    admission: Admission
    accounts: Accounts
    circuit: Circuit
    telemetry: Telemetry
    clock: Clock


class Service:
    """Serves every relayed request of a gateway."""

    def __init__(self, settings: GatewaySettings, parts: Parts) -> None:
        self._settings = settings
        self._router = parts.router
        self._upstream = parts.upstream
        self._admission = parts.admission
        self._accounts = parts.accounts
        self._circuit = parts.circuit
        self._now_s = parts.clock.now_s
        self._clock = parts.clock
        self._rates = TokenRates()
        self._decisions = parts.telemetry.histogram("headrace_decision_seconds").labels()
        self._retries = parts.telemetry.counter("headrace_retries_total")
        self._forwarded = tuple(
            (name.lower().encode("latin-1"), name.encode("latin-1"))
            for name in settings.upstream.forward_headers
        )

    async def serve(
        self,
        kind: Kind,
        headers: Mapping[bytes, bytes],
        read_body: Callable[[], Awaitable[bytes]],
        client: Client,
    ) -> None:
        """Carry one request to its outcome. Every exit records exactly one (INV-1).

        Args:
            kind: Which route it came by.
            headers: The client's headers, names in lower case.
            read_body: Reads the body, holding its bytes against the admission's limits.
            client: Where the reply goes.

        """
        given = client_request_id(headers.get(b"x-request-id"))
        account = Account(given or f"req-{uuid.uuid4().hex}", self._now_s(), kind.value)
        outcome = Outcome.INTERNAL_ERROR
        admitted, held_bytes = False, 0
        try:
            account.tenant = self._admission.enter(headers)
            admitted = True
            body = await read_body()
            held_bytes = len(body)
            outcome = await self._carry(account, parse(kind, body), headers, client)
            await client.flushed(self._settings.limits.stall_s)
            if client.gone and outcome is Outcome.SERVED:
                outcome = Outcome.CLIENT_GONE
        except (ClientGone, TimeoutError, asyncio.CancelledError) as error:
            outcome = Outcome.CLIENT_GONE
            account.reason = account.reason or type(error).__name__
            if isinstance(error, asyncio.CancelledError):
                raise
        except HeadraceError as error:
            outcome = problem_of(error).outcome
            account.reason = str(error)[:200]
            if not client.begun:
                self._answer(account, reply_to(error), client)
        except Exception as error:  # noqa: BLE001 -- the request boundary: counted and logged
            _log.error("request_failed", request_id=account.request_id, exc_info=error)
            account.reason = type(error).__name__
            if not client.begun:
                body = error_body("the gateway failed; it has been logged", INTERNAL)
                self._answer(account, Reply(INTERNAL.status, (JSON_TYPE,), body), client)
        finally:
            if admitted:
                self._admission.leave(held_bytes)
            self._accounts.close(account, outcome, self._now_s())

    async def _carry(
        self, account: Account, parsed: Parsed, headers: Mapping[bytes, bytes], client: Client
    ) -> Outcome:
        """Try endpoints until one replies, or there is no use in trying."""
        account.asked_model, account.stream = parsed.model, parsed.stream
        request = self._describe(parsed)
        tried: frozenset[EndpointId] = frozenset()
        failure: HeadraceError | None = None
        while True:
            try:
                decision = self._choose(request, tried)
            except NoEndpoint as error:
                raise failure or error from None
            account.model = parsed.model  # served by somebody, so fit to be a label
            account.attempts += 1
            try:
                exchange = await self._attempt(request, decision, account, parsed, headers, client)
                return self._conclude(exchange, account, parsed, client)
            except HeadraceError as error:
                failure = error
                reason = retry_reason(
                    error,
                    attempts=account.attempts,
                    limit=self._settings.retry.attempts,
                    begun=client.begun,
                )
                if reason is None:
                    raise
                self._retries.labels(reason.value).inc()
                tried |= {decision.endpoint_id}

    def _describe(self, parsed: Parsed) -> RouteRequest:
        prompt = parsed.prompt
        rate = self._rates.tokens_per_byte(parsed.model)
        exact = prompt.exact_tokens
        return RouteRequest(
            # not the client's id: two requests of one id may well be in flight
            RequestId(uuid.uuid4().hex),
            parsed.model,
            max(1, exact if exact is not None else round(prompt.length_bytes * rate)),
            prompt.blocks,
            BLOCK_BYTES * (rate if exact is None else 1.0 / TOKEN_BYTES),
            parsed.max_output_tokens,
            parsed.session,
            parsed.priority,
            first_token_seen=parsed.stream,
        )

    def _choose(self, request: RouteRequest, tried: frozenset[EndpointId]) -> Decision:
        now_s = self._now_s()
        resting = self._circuit.resting(now_s)
        try:
            decision = self._router.choose(request, now_s, tried | resting)
        except NoEndpoint:
            if not resting:
                raise
            decision = self._router.choose(request, now_s, tried)
        self._decisions.observe(self._now_s() - now_s)
        return decision

    async def _attempt(
        self,
        request: RouteRequest,
        decision: Decision,
        account: Account,
        parsed: Parsed,
        headers: Mapping[bytes, bytes],
        client: Client,
    ) -> Exchange:
        """Send the request to one endpoint and wait until its reply is over.

        Raises:
            HeadraceError: if the attempt failed.
            ClientGone: if the client left meanwhile.

        """
        view = self._router.endpoint(decision.endpoint_id)
        now_s = self._now_s()
        account.endpoint, account.dispatched_s = view.endpoint_id, now_s
        if decision.unit == "ms":
            account.predicted_ttft_s = decision.ranking[0].cost / 1_000.0

        def on_first(first_s: float) -> None:
            account.first_s = first_s
            self._router.first_token(request.request_id, first_s)

        upstream = self._settings.upstream
        exchange = Exchange(
            client,
            self._clock,
            meter=StreamMeter(drop_usage=not parsed.wants_usage),
            headers=(*STREAM_HEADERS, (b"x-request-id", account.request_id.encode())),
            on_first=on_first,
        )
        self._router.dispatched(request, decision, now_s)
        try:
            connection = await self._upstream.connection(view)
            exchange.begin(
                connection,
                idle_s=upstream.idle_s,
                stall_s=self._settings.limits.stall_s,
                reply_bytes=upstream.reply_bytes,
            )
            connection.send(
                self._head(view, account, parsed, headers),
                parsed.forward,
                exchange,
                now_s=now_s,
                limit_s=upstream.first_byte_s if parsed.stream else upstream.reply_s,
            )
            if client.gone:
                exchange.abandon()
            await exchange.over
        except HeadraceError as error:
            self._note_failure(view, error)
            raise
        finally:
            if not exchange.over.done():
                exchange.abandon()
            self._router.released(request.request_id, self._now_s())
        if exchange.error is not None:
            if isinstance(exchange.error, HeadraceError):
                self._note_failure(view, exchange.error)
            raise exchange.error
        self._circuit.succeeded(view.endpoint_id)
        return exchange

    def _note_failure(self, view: EndpointView, error: HeadraceError) -> None:
        """Let an endpoint rest that failed; one that is only busy has not failed."""
        if not isinstance(error, NoEndpoint):
            self._circuit.failed(view.endpoint_id, self._now_s())

    def _head(
        self,
        view: EndpointView,
        account: Account,
        parsed: Parsed,
        headers: Mapping[bytes, bytes],
    ) -> bytes:
        head = self._upstream.pool(view).head(PATHS[parsed.kind])
        more = [b"X-Request-Id: %b\r\n" % account.request_id.encode()]
        for key, name in self._forwarded:
            value = headers.get(key)
            if value is not None:
                more.append(b"%b: %b\r\n" % (name, value))
        return head + b"".join(more)

    def _conclude(
        self, exchange: Exchange, account: Account, parsed: Parsed, client: Client
    ) -> Outcome:
        """Judge a reply that came to its end, and send it if it was no stream.

        Raises:
            HeadraceError: if it is one that another endpoint should be asked for.

        """
        account.status = exchange.status
        if exchange.first_s is not None:
            usage = exchange.meter.usage
            refused = exchange.refused
        else:
            usage = judge(exchange)
            refused = exchange.status >= 400
            kind = exchange.content_type or JSON_TYPE[1]
            reply = Reply(exchange.status, ((b"content-type", kind),), bytes(exchange.body))
            self._answer(account, reply, client)
        if usage is not None:
            account.usage = usage
            self._rates.learn(parsed.model, parsed.prompt, usage.prompt_tokens)
        return Outcome.REFUSED_INVALID if refused else Outcome.SERVED

    def _answer(self, account: Account, reply: Reply, client: Client) -> None:
        """Send a whole reply."""
        account.status = reply.status
        length = (b"content-length", b"%d" % len(reply.body))
        request_id = (b"x-request-id", account.request_id.encode())
        client.start(reply.status, (*reply.headers, length, request_id))
        client.end(reply.body)


def judge(exchange: Exchange) -> Usage | None:
    """Return the usage of a collected reply, None if it tells none.

    Raises:
        Overloaded: if the engine says that it is busy.
        EngineRefused: if it failed, or aborted what it was doing.

    """
    if exchange.status in BUSY_STATUSES:
        raise Overloaded("every engine asked is busy")
    if exchange.status >= 500 or exchange.status < 200:
        raise EngineRefused(f"an engine answered with status {exchange.status}")
    try:
        chunk = CHUNK.decode(exchange.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # not ours to judge
    if any(choice.finish_reason == "abort" for choice in chunk.choices or ()):
        raise EngineRefused("the engine aborted the request")
    return None if chunk.usage is None else chunk.usage.usage()
