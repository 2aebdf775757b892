"""The story of one request: admitted, read, placed, forwarded, perhaps tried again, accounted for.

The request boundary: whatever goes wrong ends here, as one outcome and one reply. Uses asyncio.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.accounting import Account, Accounts
from gateway.adapters import Adapters
from gateway.admission import Admission, Place, client_request_id
from gateway.config import GatewaySettings
from gateway.decisions import Decisions
from gateway.dispatch import Dispatcher
from gateway.errors import INTERNAL, JSON_TYPE, Reply, error_body, problem_of, reply_to
from gateway.forward import ClientGone, Sink
from gateway.openai import Kind, parse
from gateway.placing import Placing
from gateway.retry import Circuit
from gateway.sources import Sources
from gateway.tokens import PromptTokens
from gateway.upstream import Upstream
from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.core.ids import RequestId
from headrace.core.outcome import Outcome
from headrace.service.log import get_logger
from headrace.service.telemetry import Telemetry
from router.router import Router
from router.shadow import Shadow

_log = get_logger("gateway")

MAX_REASON_CHARS: Final = 200
"""Longest reason in the line of log."""

INTERNAL_REPLY: Final = Reply(
    INTERNAL.status, (JSON_TYPE,), error_body("the gateway failed; this is a bug", INTERNAL)
)


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
    decisions: Decisions
    tokens: PromptTokens
    shadow: Shadow | None = None
    adapters: Adapters | None = None


class Service:
    """Serves every relayed request of a gateway. One per process."""

    def __init__(self, settings: GatewaySettings, parts: Parts) -> None:
        self._limits = settings.limits
        self._admission = parts.admission
        self._accounts = parts.accounts
        self.sources = Sources(parts.router.serving)
        self.placing = Placing(
            parts.router,
            parts.circuit,
            parts.clock,
            parts.telemetry,
            parts.decisions,
            parts.shadow,
        )
        self._dispatcher = Dispatcher(
            settings,
            router=parts.router,
            placing=self.placing,
            tokens=parts.tokens,
            sources=self.sources,
            upstream=parts.upstream,
            circuit=parts.circuit,
            clock=parts.clock,
            telemetry=parts.telemetry,
            adapters=parts.adapters,
        )
        self._decisions = parts.decisions
        self._now_s = parts.clock.now_s
        self._id_prefix = f"req-{os.urandom(6).hex()}-"
        self._count = 0

    async def serve(self, kind: Kind, headers: Mapping[bytes, bytes], sink: Sink) -> None:
        """Carry one request to its outcome. Every exit enters exactly one (INV-1).

        Args:
            kind: What it asks for, by its path.
            headers: Its headers, their names in lower case.
            sink: Where its body comes from and its reply goes.

        """
        self._count += 1
        own_id = f"{self._id_prefix}{self._count:x}"
        request_id = client_request_id(headers.get(b"x-request-id")) or own_id
        account = Account(request_id, self._now_s(), kind)
        place: Place | None = None
        outcome = Outcome.INTERNAL_ERROR
        try:
            place = self._admission.enter(headers)
            account.tenant = place.tenant
            body = await sink.read(place.hold, self._limits.body_s)
            request = parse(kind, body)
            account.asked_model = request.model
            account.stream = request.stream
            sink.watch()
            outcome = await self._dispatcher.dispatch(own_id, request, headers, account, sink)
            await sink.flushed(self._limits.stall_s)
        except (ClientGone, TimeoutError):
            outcome = Outcome.CLIENT_GONE
        except HeadraceError as error:
            outcome = self._refused(error, headers, account, sink)
        except asyncio.CancelledError:
            outcome = Outcome.CUT
            account.reason = "the gateway is stopping"
            raise
        except Exception as error:  # noqa: BLE001 -- the request boundary: counted, logged, answered
            _log.error("internal_error", request_id=request_id, exc_info=error)
            account.reason = type(error).__name__
            self._answer(INTERNAL_REPLY, headers, account, sink)
        finally:
            if place is not None:
                place.leave()
            if sink.gone and outcome is Outcome.SERVED:
                outcome = Outcome.CLIENT_GONE
            sink.close()
            self._decisions.ended(RequestId(own_id), outcome, account.ttft_s, account.usage)
            self._accounts.close(account, outcome, self._now_s())

    def _refused(
        self, error: HeadraceError, headers: Mapping[bytes, bytes], account: Account, sink: Sink
    ) -> Outcome:
        """Answer with an error, unless a reply has begun: then it was ended already."""
        problem = problem_of(error)
        account.reason = str(error)[:MAX_REASON_CHARS]
        if problem is INTERNAL:
            _log.error("internal_error", request_id=account.request_id, exc_info=error)
            self._answer(INTERNAL_REPLY, headers, account, sink)
        else:
            self._answer(reply_to(error), headers, account, sink)
        return problem.outcome

    @staticmethod
    def _answer(reply: Reply, headers: Mapping[bytes, bytes], account: Account, sink: Sink) -> None:
        if sink.begun or sink.gone:
            return
        account.status = reply.status
        extra = [
            *reply.headers,
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", account.request_id.encode()),
        ]
        if b"expect" in headers:  # its body may never come, so the connection cannot be kept
            extra.append((b"connection", b"close"))
        sink.start(reply.status, tuple(extra))
        sink.end(reply.body)
