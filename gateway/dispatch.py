"""Places a request on an endpoint, has it forwarded, and tries another where that is safe.

Asks the router, keeps its ledger true, and judges replies. Uses asyncio only to wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from gateway.accounting import Account
from gateway.adapters import Adapters
from gateway.config import GatewaySettings
from gateway.disaggregation import Disaggregation, check_second
from gateway.forward import STREAM_HEADERS, ClientGone, Exchange, Recalled, Sink
from gateway.openai import Kind, Parsed
from gateway.placing import Placing
from gateway.prompt import BLOCK_BYTES, TOKEN_BYTES, TokenRates
from gateway.reply import judge
from gateway.retry import Circuit, RetryReason, retry_reason
from gateway.sources import Sources, labels_of, session_of
from gateway.sse import StreamMeter
from gateway.tokens import PromptTokens, Tokenised
from gateway.upstream import Upstream
from headrace.core.clock import Clock
from headrace.core.errors import (
    CapacityError,
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    HeadraceError,
    NoEndpoint,
)
from headrace.core.ids import EndpointId, ModelName, RequestId
from headrace.core.outcome import Outcome
from headrace.core.request import NO_ENGINE_BLOCKS, RouteRequest
from headrace.service.telemetry import Telemetry
from router.decide import Decision
from router.policies.expected_ttft import TTFT_PARTS
from router.policy import TIME_UNIT
from router.router import Router

PATHS: Final[Mapping[Kind, str]] = {
    Kind.CHAT: "/v1/chat/completions",
    Kind.COMPLETION: "/v1/completions",
    Kind.EMBEDDING: "/v1/embeddings",
    Kind.TOKENIZE: "/tokenize",
}
"""The paths of the hot routes, ours and the engines'."""


class Dispatcher:
    """Sends requests where the router says. One owner."""

    def __init__(  # noqa: PLR0913 -- what a request meets on its way
        self,
        settings: GatewaySettings,
        *,
        router: Router,
        placing: Placing,
        tokens: PromptTokens,
        sources: Sources,
        upstream: Upstream,
        circuit: Circuit,
        clock: Clock,
        telemetry: Telemetry,
        adapters: Adapters | None = None,
    ) -> None:
        self._adapters = adapters
        self._settings = settings
        self._router = router
        self._placing = placing
        self._tokens = tokens
        self._sources = sources
        self._upstream = upstream
        self._circuit = circuit
        self._clock = clock
        self._split = Disaggregation(
            settings.upstream,
            PATHS,
            router=router,
            placing=placing,
            upstream=upstream,
            circuit=circuit,
            clock=clock,
            telemetry=telemetry,
        )
        self._rates = TokenRates()
        self._forwarded = [name.lower().encode() for name in settings.upstream.forward_headers]
        self._labels_header = (settings.routing.labels_header or "").lower().encode()
        self._retries = telemetry.counter("headrace_retries_total")

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
        route, tokenised = await self._route(own_id, request, headers)
        head = self._head(headers, account)
        tried: frozenset[EndpointId] = frozenset()
        last: HeadraceError | None = None
        limit = self._settings.retry.attempts
        stale = False
        while True:
            decision = await self._place(route, tried, account, last, sink)
            try:
                outcome = await self._attempt(route, decision, request, head, account, sink)
                self._learn(request, tokenised, account)
                return outcome
            except Recalled:
                if sink.gone:
                    raise ClientGone from None
                self._retries.labels(RetryReason.RECALLED).inc()
                limit += 1  # nothing failed
            except (EngineError, CapacityError) as error:
                last = error
                split = decision.candidate.prefill_id is not None
                if split or (isinstance(error, StaleConnection) and not stale):
                    # that was not the request's fault, or never reached an engine: it is free
                    stale, limit = stale or not split, limit + 1
                    route = replace(route, may_split=route.may_split and not split)
                reason = retry_reason(
                    error, attempts=account.attempts, limit=limit, begun=sink.begun
                )
                if reason is None:
                    raise
                if sink.gone:
                    raise ClientGone from None
                self._retries.labels(reason).inc()
                if not self._split.excuses(decision, error) and not isinstance(
                    error, StaleConnection
                ):
                    tried |= {decision.endpoint_id}

    async def _route(
        self, own_id: str, request: Parsed, headers: Mapping[bytes, bytes]
    ) -> tuple[RouteRequest, Tokenised | None]:
        """Return what the router is told of a request, and its tokens where they are known."""
        schemes = self._router.schemes()
        tokenised = None
        if schemes:
            source = self._sources.of(request.model)
            tokenised = await self._tokens.of(request, source, schemes)
        prompt = request.prompt
        if prompt.exact_tokens is not None:
            tokens, per_byte = prompt.exact_tokens, 1.0 / TOKEN_BYTES
        else:
            per_byte = self._rates.tokens_per_byte(request.model)
            tokens = max(1, round(prompt.length_bytes * per_byte))
            if tokenised is not None:
                tokens = max(1, tokenised.tokens)
                per_byte = tokens / max(1, prompt.length_bytes)
        route = RouteRequest(
            request_id=RequestId(own_id),
            model=request.model,
            prompt_tokens=tokens,
            blocks=prompt.blocks,
            block_tokens=BLOCK_BYTES * per_byte,
            max_output_tokens=request.max_output_tokens,
            session=session_of(headers) or request.session,
            priority=request.priority,
            first_token_seen=request.stream,
            labels=labels_of(headers, self._labels_header),
            may_split=self._split.may_split(request),
            engine_blocks=NO_ENGINE_BLOCKS if tokenised is None else tokenised.blocks,
        )
        return route, tokenised

    def _head(self, headers: Mapping[bytes, bytes], account: Account) -> bytes:
        """Return the part of the head sent to engines that is this request's own."""
        head = b"X-Request-Id: %b\r\n" % account.request_id.encode()
        for name in self._forwarded:
            value = headers.get(name)
            if value is not None and b"\n" not in value and b"\r" not in value:
                head += b"%b: %b\r\n" % (name, value)
        return head

    async def _place(
        self,
        route: RouteRequest,
        tried: frozenset[EndpointId],
        account: Account,
        last: HeadraceError | None,
        sink: Sink,
    ) -> Decision:
        """Have it placed, or say how the last attempt failed when no endpoint is left."""
        if self._adapters is not None:
            tried |= self._adapters.resting(route.model)
        try:
            decision = await self._placing.place(
                route, tried, name=account.request_id, attempt=account.attempts, sink=sink
            )
        except NoEndpoint:
            account.model = route.model
            if last is not None:
                raise last from None
            why = None if self._adapters is None else self._adapters.why(route.model)
            if why is not None:
                raise NoEndpoint(f"no endpoint can load {route.model!r} now: {why}") from None
            raise
        account.model = route.model
        return decision

    def _learn(self, request: Parsed, tokenised: Tokenised | None, account: Account) -> None:
        """Compare the tokens we made of a prompt with the engine's count of them."""
        if tokenised is None or account.usage is None:
            return
        source = self._sources.of(request.model)
        if source is not None:
            self._tokens.reported(source, tokenised, account.usage.prompt_tokens)

    async def _attempt(
        self,
        route: RouteRequest,
        decision: Decision,
        request: Parsed,
        head: bytes,
        account: Account,
        sink: Sink,
    ) -> Outcome:
        """Try the endpoint where it is reserved, and release it."""
        endpoint_id = decision.endpoint_id
        now_s = self._clock.now_s()
        account.attempts += 1
        account.endpoint = endpoint_id
        account.dispatched_s = now_s
        account.predicted_ttft_s = _predicted_ttft_s(decision, self._router.time_scale)
        prefill_id = decision.candidate.prefill_id
        try:
            await self._load_adapter(route, prefill_id, endpoint_id, sink)
            if prefill_id is not None:
                request = await self._split.prefill(route, prefill_id, request, head, sink)
            exchange = await self._forward(route, endpoint_id, request, head, account, sink)
            if prefill_id is not None:
                check_second(exchange.status)
            if exchange.status == 404 and self._lost(endpoint_id, route.model):
                raise EngineRefused(f"{endpoint_id} no longer has {route.model!r}")
            return self._settle(exchange, request, account, sink)
        finally:
            self._placing.released(route.request_id, account.usage)

    async def _load_adapter(
        self,
        route: RouteRequest,
        prefill_id: EndpointId | None,
        endpoint_id: EndpointId,
        sink: Sink,
    ) -> None:
        """Hold the request until the endpoints chosen for it have its adapter, if it needs one."""
        if self._adapters is None or self._router.adapters.spec(route.model) is None:
            return
        for one in (endpoint_id, prefill_id):
            if one is not None:
                await self._adapters.ensure(self._router.endpoint(one), route.model, sink)

    def _lost(self, endpoint_id: EndpointId, model: ModelName) -> bool:
        """Return whether an engine that does not know a name was believed to have it loaded."""
        if self._adapters is None:
            return False
        return self._adapters.lost(self._router.endpoint(endpoint_id), model)

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
            self._placing.first_token(route.request_id, now_s)

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
            self._upstream.head(view, PATHS[request.kind]) + head,
            request.forward,
            exchange,
            now_s=self._clock.now_s(),
            limit_s=limits.first_byte_s if request.stream else limits.reply_s,
        )
        self._placing.sent(route.request_id, exchange.recall)
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
    if decision.unit != TIME_UNIT:
        return None
    engine_ms = sum(ms for name, ms in decision.ranking[0].parts if name in TTFT_PARTS)
    return engine_ms / 1_000.0 / time_scale
