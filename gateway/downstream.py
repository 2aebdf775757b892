"""The client's side of one exchange, over ASGI, without a task switch per piece. Uses asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from typing import Any, Final, cast

from gateway.forward import ClientGone
from gateway.stepping import Stepped
from headrace.core.errors import InvalidRequest

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

MAX_QUEUED: Final = 4_096
"""Messages held for a client that does not read. The engine's side is paused at the first one, so
only what had already arrived is ever here."""


def _nothing() -> None:
    return None


class Downstream:
    """Sends a reply, and notices when the client goes.

    Attributes:
        begun: Whether a head has been sent: from then on the status cannot change.
        ended: Whether the reply is complete.
        gone: Whether the client went away before that.
        on_gone: Called once when it does.
        on_ready: Called when ``blocked`` becomes false again.

    """

    __slots__ = (
        "_queue",
        "_receive",
        "_send",
        "_sending",
        "_watch",
        "begun",
        "ended",
        "gone",
        "on_gone",
        "on_ready",
    )

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._sending: Stepped[None] | None = None
        self._queue: deque[Message] = deque()
        self._watch: Stepped[Message] | None = None
        self.begun = False
        self.ended = False
        self.gone = False
        self.on_gone: Callable[[], None] = _nothing
        self.on_ready: Callable[[], None] = _nothing

    @property
    def blocked(self) -> bool:
        """Whether the client takes no more for now; what is written is queued."""
        return self._sending is not None

    async def read(self, hold: Callable[[int], None], limit_s: float) -> bytes:
        """Read the request's body.

        Args:
            hold: Asked for room for each piece before it is kept; what it raises is passed on.
            limit_s: How long the client may take.

        Raises:
            ClientGone: if the client left before it was complete.
            InvalidRequest: if it was not complete in time.

        """
        pieces: list[bytes] = []
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first = Stepped(
            cast("Coroutine[Any, Any, Message]", self._receive()), lambda _: came.set_result(None)
        )
        if first.finished and not self._keep(first.result, pieces, hold):
            return pieces[0]  # nearly always it is all there, and no timer is made
        try:
            async with asyncio.timeout(limit_s):
                if not first.finished:
                    await came
                    if not self._keep(first.result, pieces, hold):
                        return pieces[0]
                while self._keep(await self._receive(), pieces, hold):
                    pass
        except TimeoutError:
            raise InvalidRequest(f"the body did not come within {limit_s:g} s") from None
        finally:
            first.cancel()
        return b"".join(pieces)

    def _keep(
        self, message: Message | None, pieces: list[bytes], hold: Callable[[int], None]
    ) -> bool:
        """Keep a piece of the request's body and return whether there is more to come."""
        if message is None or message["type"] != "http.request":
            self.gone = True
            raise ClientGone
        piece = message.get("body", b"")
        hold(len(piece))
        pieces.append(piece)
        return bool(message.get("more_body", False))

    def watch(self) -> None:
        """Begin to watch for the client going away; the request's body must have been read."""
        watch = Stepped(cast("Coroutine[Any, Any, Message]", self._receive()), self._received)
        self._watch = watch
        if watch.finished:
            self._received(watch)

    def close(self) -> None:
        """Stop watching and sending; the exchange is over, whatever its state."""
        self.on_gone = self.on_ready = _nothing
        if self._watch is not None:
            self._watch.cancel()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        self._queue.clear()

    async def flushed(self, limit_s: float) -> None:
        """Wait until all that was written has been taken, or the client has gone.

        Raises:
            TimeoutError: if the client does not take it within ``limit_s``.

        """
        if self._sending is None or self.gone:
            return
        waiter = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        self.on_gone = self.on_ready = wake
        async with asyncio.timeout(limit_s):
            await waiter

    def start(self, status: int, headers: Headers) -> None:
        """Send the head of the reply."""
        assert not self.begun
        self.begun = True
        self._push({"type": "http.response.start", "status": status, "headers": headers})

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._push({"type": "http.response.body", "body": data, "more_body": True})

    def write_chunk(self, chunk: bytes, start: int) -> None:
        """Send a piece that came in the frame of a chunk; the server frames it again."""
        self.write(chunk[start:-2])

    def cork(self) -> None:
        """Nothing is kept: the server writes each message as it comes."""

    def uncork(self) -> None:
        """Nothing was kept."""

    def end(self, data: bytes = b"") -> None:
        """Send the last piece of the body."""
        self.ended = True
        self._push({"type": "http.response.body", "body": data, "more_body": False})

    def _push(self, message: Message) -> None:
        if self.gone:
            return
        if self._sending is not None:
            self._queue.append(message)
            assert len(self._queue) <= MAX_QUEUED
            return
        self._begin(message)

    def _begin(self, message: Message) -> None:
        sending = Stepped(cast("Coroutine[Any, Any, None]", self._send(message)), self._sent)
        if not sending.finished:
            self._sending = sending
        elif sending.error is not None:
            self._lost()

    def _sent(self, sending: Stepped[None]) -> None:
        self._sending = None
        if sending.error is not None:
            self._lost()
            return
        while self._queue and self._sending is None and not self.gone:
            self._begin(self._queue.popleft())
        if self._sending is None and not self.gone:
            self.on_ready()

    def _received(self, watch: Stepped[Message]) -> None:
        message = watch.result
        if watch.error is None and message is not None and message["type"] == "http.request":
            self.watch()  # an empty last piece of body: look again
            return
        if not self.ended:
            self._lost()

    def _lost(self) -> None:
        if self.gone:
            return
        self.gone = True
        self._queue.clear()
        self.on_gone()
