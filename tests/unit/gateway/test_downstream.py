from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.downstream import Downstream
from gateway.forward import ClientGone
from gateway.stepping import Stepped
from headrace.core.errors import BodyTooLarge, InvalidRequest


class Server:
    """An ASGI server whose client takes nothing while ``open`` is clear."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.coming = list(messages)
        self.sent: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.more = asyncio.Event()
        self.fail = False

    async def receive(self) -> dict[str, Any]:
        while not self.coming:
            self.more.clear()
            await self.more.wait()
        return self.coming.pop(0)

    async def send(self, message: Any) -> None:
        if self.fail:
            raise OSError
        await self.open.wait()
        self.sent.append(message)

    def push(self, message: dict[str, Any]) -> None:
        self.coming.append(message)
        self.more.set()

    @property
    def bodies(self) -> list[bytes]:
        return [m["body"] for m in self.sent if m["type"] == "http.response.body"]


def piece(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


def down(server: Server) -> Downstream:
    return Downstream(server.receive, server.send)


def no_limit(_: int) -> None:
    return None


async def test_what_can_be_sent_is_sent_at_once_in_order() -> None:
    server = Server()
    sink = down(server)
    sink.start(200, ())
    sink.write(b"a")
    sink.end(b"b")
    assert server.sent[0]["type"] == "http.response.start"
    assert server.bodies == [b"a", b"b"]
    assert not sink.blocked


async def test_while_the_client_takes_nothing_it_is_queued_then_sent_in_order() -> None:
    server = Server()
    sink = down(server)
    ready = asyncio.Event()
    sink.on_ready = ready.set
    sink.start(200, ())
    server.open.clear()
    for data in (b"a", b"b", b"c"):
        sink.write(data)
    assert sink.blocked
    assert server.bodies == []
    server.open.set()
    async with asyncio.timeout(5):
        await ready.wait()
    assert server.bodies == [b"a", b"b", b"c"]
    assert not sink.blocked


async def test_flushed_waits_for_a_slow_client_but_not_for_ever() -> None:
    server = Server()
    sink = down(server)
    sink.start(200, ())
    server.open.clear()
    sink.end(b"a")
    with pytest.raises(TimeoutError):
        await sink.flushed(0.02)
    server.open.set()
    await sink.flushed(5.0)
    assert server.bodies == [b"a"]
    sink.close()


async def test_a_client_that_leaves_is_noticed_once() -> None:
    server = Server()
    sink = down(server)
    left: list[int] = []
    noticed = asyncio.Event()

    def gone() -> None:
        left.append(1)
        noticed.set()

    sink.on_gone = gone
    sink.watch()
    server.push(piece(b""))  # some servers send an empty last piece
    await asyncio.sleep(0)
    assert not sink.gone
    server.push(GONE)
    async with asyncio.timeout(5):
        await noticed.wait()
    sink.write(b"late")
    assert (sink.gone, left, server.sent) == (True, [1], [])


async def test_a_send_that_fails_means_the_client_left() -> None:
    server = Server()
    sink = down(server)
    server.fail = True
    sink.start(200, ())
    assert sink.gone


async def test_leaving_after_the_end_is_not_leaving() -> None:
    server = Server()
    sink = down(server)
    sink.watch()
    sink.start(200, ())
    sink.end()
    server.push(GONE)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not sink.gone


async def test_a_body_in_one_piece_is_not_copied() -> None:
    body = b"x" * 1_000
    assert await down(Server(piece(body))).read(no_limit, 1.0) is body


async def test_a_body_in_pieces_is_joined_and_each_is_asked_for() -> None:
    server = Server(piece(b"a", more=True), piece(b"b", more=True))
    asked: list[int] = []
    reading = asyncio.ensure_future(down(server).read(asked.append, 5.0))
    await asyncio.sleep(0)
    server.push(piece(b"c"))
    assert await reading == b"abc"
    assert asked == [1, 1, 1]


async def test_a_body_that_comes_late_is_waited_for_within_the_limit() -> None:
    server = Server()
    sink = down(server)
    reading = asyncio.ensure_future(sink.read(no_limit, 5.0))
    await asyncio.sleep(0)
    server.push(piece(b"a"))
    assert await reading == b"a"
    with pytest.raises(InvalidRequest, match="did not come"):
        await down(Server()).read(no_limit, 0.01)
    with pytest.raises(InvalidRequest, match="did not come"):
        await down(Server(piece(b"a", more=True))).read(no_limit, 0.01)


@pytest.mark.parametrize("first", [[GONE], [piece(b"a", more=True), GONE]])
async def test_a_client_that_leaves_within_its_body_is_gone(first: list[dict[str, Any]]) -> None:
    sink = down(Server(*first))
    with pytest.raises(ClientGone):
        await sink.read(no_limit, 1.0)
    assert sink.gone


async def test_a_refused_piece_stops_the_reading() -> None:
    def hold(_: int) -> None:
        raise BodyTooLarge("too large")

    with pytest.raises(BodyTooLarge):
        await down(Server(piece(b"a", more=True))).read(hold, 1.0)


class TestStepped:
    async def test_what_does_not_wait_finishes_at_once(self) -> None:
        async def work() -> int:
            return 3

        stepped = Stepped(work(), lambda _: pytest.fail("it finished at once"))
        assert (stepped.finished, stepped.result) == (True, 3)

    async def test_what_waits_is_finished_later_and_told(self) -> None:
        event, told = asyncio.Event(), asyncio.Event()

        async def work() -> int:
            await event.wait()
            await asyncio.sleep(0)
            return 3

        stepped = Stepped(work(), lambda _: told.set())
        assert not stepped.finished
        event.set()
        async with asyncio.timeout(5):
            await told.wait()
        assert stepped.result == 3

    async def test_errors_are_kept(self) -> None:
        async def work() -> None:
            raise KeyError("x")

        assert isinstance(Stepped(work(), lambda _: None).error, KeyError)

    async def test_what_is_cancelled_cleans_up_and_tells_nobody(self) -> None:
        event, cleaned = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            try:
                await event.wait()
            finally:
                cleaned.set()

        stepped = Stepped(work(), lambda _: pytest.fail("nobody asked"))
        stepped.cancel()
        stepped.cancel()
        event.set()
        await asyncio.sleep(0)
        assert cleaned.is_set()
        assert stepped.finished
