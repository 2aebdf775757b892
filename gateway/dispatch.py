"""Places a request on an endpoint, has it forwarded, and tries another where that is safe.

Asks the router, keeps its ledger true, and judges replies. Uses asyncio only to wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.accounting import Account
from gateway.config import GatewaySettings
from gateway.forward import STREAM_HEADERS, ClientGone, Exchange, Sink
from gateway.openai import Kind, Parsed
from gateway.prompt import BLOCK_BYTES, TOKEN_BYTES, TokenRates
from gateway.reply import judge
from gateway.retry import Circuit, retry_reason
from gateway.sse import StreamMeter
from gateway.upstream import Upstream
from headrace.core.clock import Clock
from headrace.core.errors import (
    CapacityError,
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    HeadraceError,
    NoEndpoint,
)
from headrace.core.ids import EndpointId, RequestId
from headrace.core.outcome import Outcome
from headrace.core.request import RouteRequest
from headrace.service.telemetry import Telemetry
from router.decide import Decision
from router.router import Router

PATHS: Final[Mapping[Kind, str]] = {
    Kind.CHAT: "/v1/chat/completions",
    Kind.COMPLETION: "/v1/completions",
    Kind.EMBEDDING: "/v1/embeddings",
    Kind.TOKENIZE: "/tokenize",
}
"""The paths of the hot routes, ours and the engines'."""

_TTFT_PARTS: Final = frozenset({"queue", "transfer", "prefill"})
"""Parts of a cost in milliseconds that are time; the others are harm or risk put into figures."""


class Dispatcher:
    """Sends requests where the router says. One owner."""

    def __init__(
        self,
        settings: GatewaySettings,
        router: Router,
        upstream: Upstream,
        circuit: Circuit,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._router = router
        self._upstream = upstream
        self._circuit = circuit
        self._clock = clock
        self._rates = TokenRates()
        self._forwarded = [name.lower().encode() for name in settings.upstream.forward_headers]
        self._retries = telemetry.counter("headrace_retries_total")
        self._decision = telemetry.histogram("headrace_decision_seconds").labels()

    async def dispatch(
        self,
        own_id: str,
        request: Parsed,
        headers: Mapping[bytes, bytes],
        account: Account,
        sink: Sink,
    ) -> Outcome:
        """Get a request answered by some endpoint.

        Args:
            own_id: Unique among requests in flight, unlike what clients call theirs.
            request: The request.
            headers: The client's.
            account: Where to enter what happens.
            sink: Where the reply goes.

        Raises:
            HeadraceError: how the last attempt failed; a reply that had begun has been ended.
            ClientGone: if the client left.

        """
        route = self._route(own_id, request)
        head = self._head(headers, account)
        tried: frozenset[EndpointId] = frozenset()
        last: HeadraceError | None = None
        limit = self._settings.retry.attempts
        stale = False
        while True:
            decision = self._choose(route, tried, account, last)
            try:
                return await self._attempt(route, decision, request, head, account, sink)
            except (EngineError, CapacityError) as error:
                last = error
                if isinstance(error, StaleConnection) and not stale:
                    stale, limit = True, limit + 1  # it never reached an engine, so it is free
                reason = retry_reason(
                    error, attempts=account.attempts, limit=limit, begun=sink.begun
                )
                if reason is None:
                    raise
                if sink.gone:
                    raise ClientGone from None
                self._retries.labels(reason).inc()
                if not isinstance(error, StaleConnection):
                    tried |= {decision.endpoint_id}

    def _route(self, own_id: str, request: Parsed) -> RouteRequest:
        prompt = request.prompt
        if prompt.exact_tokens is not None:
            tokens, per_byte = prompt.exact_tokens, 1.0 / TOKEN_BYTES
        else:
            per_byte = self._rates.tokens_per_byte(request.model)
            tokens = max(1, round(prompt.length_bytes * per_byte))
        return RouteRequest(
            request_id=RequestId(own_id),
            model=request.model,
            prompt_tokens=tokens,
            blocks=prompt.blocks,
            block_tokens=BLOCK_BYTES * per_byte,
            max_output_tokens=request.max_output_tokens,
            session=request.session,
            priority=request.priority,
            first_token_seen=request.stream,
        )

    def _head(self, headers: Mapping[bytes, bytes], account: Account) -> bytes:
        """Return the part of the head sent to engines that is this request's own."""
        head = b"X-Request-Id: %b\r\n" % account.request_id.encode()
        for name in self._forwarded:
            value = headers.get(name)
            if value is not None and b"\n" not in value and b"\r" not in value:
                head += b"%b: %b\r\n" % (name, value)
        return head

    def _choose(
        self,
        route: RouteRequest,
        tried: frozenset[EndpointId],
        account: Account,
        last: HeadraceError | None,
    ) -> Decision:
        """Ask the router, leaving out what was tried and, where others are left, what rests."""
        now_s = self._clock.now_s()
        resting = self._circuit.resting(now_s)
        try:
            try:
                decision = self._router.choose(route, now_s, tried | resting if resting else tried)
            except NoEndpoint:
                if not resting - tried:
                    raise
                decision = self._router.choose(route, now_s, tried)
        except NoEndpoint:
            account.model = route.model
            if last is not None:
                raise last from None
            raise
        account.model = route.model
        self._decision.observe(self._clock.now_s() - now_s)
        return decision

    async def _attempt(
        self,
        route: RouteRequest,
        decision: Decision,
        request: Parsed,
        head: bytes,
        account: Account,
        sink: Sink,
    ) -> Outcome:
        """Try one endpoint, with its reserve in the ledger from before to after."""
        endpoint_id = decision.endpoint_id
        now_s = self._clock.now_s()
        account.attempts += 1
        account.endpoint = endpoint_id
        account.dispatched_s = now_s
        account.predicted_ttft_s = _predicted_ttft_s(decision, self._router.time_scale)
        self._router.dispatched(route, decision, now_s)
        try:
            exchange = await self._forward(route, endpoint_id, request, head, account, sink)
            return self._settle(exchange, request, account, sink)
        finally:
            self._router.released(route.request_id, self._clock.now_s())

    async def _forward(
        self,
        route: RouteRequest,
        endpoint_id: EndpointId,
        request: Parsed,
        head: bytes,
        account: Account,
        sink: Sink,
    ) -> Exchange:
        """Send the request and wait until its reply is over."""
        limits = self._settings.upstream
        view = self._router.endpoint(endpoint_id)
        try:
            connection = await self._upstream.connection(view)
        except EngineUnreachable:
            self._circuit.failed(endpoint_id, self._clock.now_s())
            raise
        if sink.gone:
            connection.give_back()
            raise ClientGone

        def first(now_s: float) -> None:
            account.first_s = now_s
            account.status = 200
            self._router.first_token(route.request_id, now_s)

        exchange = Exchange(
            sink,
            self._clock,
            meter=StreamMeter(drop_usage=not request.wants_usage),
            headers=(*STREAM_HEADERS, (b"x-request-id", account.request_id.encode())),
            on_first=first,
        )
        fresh = connection.fresh
        exchange.begin(
            connection,
            idle_s=limits.idle_s,
            stall_s=self._settings.limits.stall_s,
            reply_bytes=limits.reply_bytes,
        )
        connection.send(
            self._upstream.pool(view).head(PATHS[request.kind]) + head,
            request.forward,
            exchange,
            now_s=self._clock.now_s(),
            limit_s=limits.first_byte_s if request.stream else limits.reply_s,
        )
        try:
            await exchange.over
        finally:
            exchange.abandon()  # changes nothing unless we were cancelled
        self._note_health(endpoint_id, exchange, fresh=fresh)
        return exchange

    def _note_health(self, endpoint_id: EndpointId, exchange: Exchange, *, fresh: bool) -> None:
        error = exchange.error
        if exchange.status:
            self._circuit.succeeded(endpoint_id)
        elif isinstance(error, EngineUnreachable) and not fresh:
            raise StaleConnection(error.message)
        if isinstance(error, EngineTimeout | EngineUnreachable):
            self._circuit.failed(endpoint_id, self._clock.now_s())

    def _settle(self, exchange: Exchange, request: Parsed, account: Account, sink: Sink) -> Outcome:
        """Enter what the exchange came to, and send the reply if it is not streamed already."""
        account.usage = exchange.meter.usage
        if exchange.error is not None:
            raise exchange.error
        outcome = Outcome.REFUSED_INVALID if exchange.refused else Outcome.SERVED
        if not sink.begun:
            reply = judge(exchange.status, exchange.content_type, bytes(exchange.body))
            account.usage = reply.usage
            account.status = exchange.status
            outcome = reply.outcome
            sink.start(
                exchange.status,
                (
                    (b"content-type", reply.content_type),
                    (b"content-length", b"%d" % len(reply.body)),
                    (b"x-request-id", account.request_id.encode()),
                ),
            )
            sink.end(reply.body)
        if account.usage is not None:
            self._rates.learn(request.model, request.prompt, account.usage.prompt_tokens)
        return outcome


class StaleConnection(EngineUnreachable):
    """A kept connection had been closed by the engine; the endpoint itself may be well."""


def _predicted_ttft_s(decision: Decision, time_scale: float) -> float | None:
    """Return the time to first token that the decision expects, in seconds of our clock."""
    if decision.unit != "ms":
        return None
    engine_ms = sum(ms for name, ms in decision.ranking[0].parts if name in _TTFT_PARTS)
    return engine_ms / 1_000.0 / time_scale
