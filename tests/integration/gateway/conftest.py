"""A scripted engine, a running gateway and a client that sees every byte, all over loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from gateway.config import GatewaySettings
from gateway.process import run_gateway
from headrace.core.endpoint import EndpointView
from headrace.core.ids import EndpointId, ModelName
from headrace.runtime.discovery import ListSource
from router.router import Router

CHAT_PATH = "/v1/chat/completions"

LIMIT_S = 20.0
"""No wait in these tests is longer."""


@dataclass
class Seen:
    """One request as an engine saw it."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        decoded = json.loads(self.body)
        assert isinstance(decoded, dict)
        return decoded


Script = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


def event(value: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"


def token(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return event({"id": "c", "choices": [choice]})


USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 32},
}
USAGE_EVENT = event({"id": "c", "choices": [], "usage": USAGE})
DONE = event("[DONE]")
TOKENS = token("Hel") + token("lo") + token("", "stop")
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
WHOLE = {
    "id": "c",
    "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}


def framed(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


async def begin_stream(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    writer.write(STREAM_HEAD)
    await send(writer, *pieces)


async def send(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    for piece in pieces:
        writer.write(framed(piece))
        await writer.drain()


async def end_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def answer(status: int, value: object) -> bytes:
    body = json.dumps(value).encode()
    return (
        b"HTTP/1.1 %d Whatever\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (status, len(body), body)
    )


async def well(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Do what a healthy engine does."""
    if not seen.json.get("stream"):
        writer.write(answer(200, WHOLE))
        return
    options = seen.json.get("stream_options") or {}
    assert isinstance(options, dict)
    usage = [USAGE_EVENT] if options.get("include_usage") else []
    await begin_stream(writer, token("Hel"), token("lo"), token("", "stop"), *usage, DONE)
    await end_stream(writer)


@dataclass
class FakeEngine:
    """An engine that does as its script says, request by request."""

    name: str
    script: Script = well
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def view(self) -> EndpointView:
        return EndpointView(
            EndpointId(self.name), f"http://127.0.0.1:{self.port}", (ModelName("m"),)
        )

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        coming = asyncio.ensure_future(self._read(reader))
        try:
            while True:
                seen = await coming
                self.seen.append(seen)
                coming = asyncio.ensure_future(self._read(reader))
                await self._run(seen, coming, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            writer.close()

    async def _run(
        self, seen: Seen, coming: asyncio.Future[Seen], writer: asyncio.StreamWriter
    ) -> None:
        """Follow the script until it ends or the client leaves."""
        work = asyncio.ensure_future(self.script(seen, writer))
        try:
            await asyncio.wait((work, coming), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() or isinstance(work.exception(), ConnectionError):
                self.left.set()
                raise ConnectionResetError
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> Seen:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (row.split(": ", 1) for row in rest)}
        body = await reader.readexactly(int(headers["content-length"]))
        return Seen(line, headers, body)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, object]:
        decoded = json.loads(self.body)["error"]
        assert set(decoded) == {"message", "type", "param", "code"}
        assert isinstance(decoded, dict)
        return decoded


class Client:
    """One raw connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, value: object, *, path: str = CHAT_PATH, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        extra = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        kind = "" if "content_type" in headers else "content-type: application/json\r\n"
        self.writer.write(
            f"POST {path} HTTP/1.1\r\nhost: x\r\n{kind}{extra}"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await self.writer.drain()

    async def get(self, path: str) -> Reply:
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return await self.reply()

    async def head(self) -> Reply:
        async with asyncio.timeout(LIMIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.strip().split("\r\n")
        headers = {n.lower(): value for n, value in (row.split(": ", 1) for row in rest)}
        return Reply(int(line.split(" ")[1]), headers, b"")

    async def piece(self) -> bytes:
        """Read one chunk of the reply's framing; empty at the end."""
        async with asyncio.timeout(LIMIT_S):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def reply(self) -> Reply:
        reply = await self.head()
        if "content-length" in reply.headers:
            async with asyncio.timeout(LIMIT_S):
                reply.body = await self.reader.readexactly(int(reply.headers["content-length"]))
            return reply
        while piece := await self.piece():
            reply.body += piece
        return reply


@dataclass
class Lines:
    """Keeps the request lines."""

    rows: list[dict[str, object]] = field(default_factory=list)
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, event: str, fields: dict[str, object]) -> None:
        assert event == "request"
        self.rows.append(fields)
        self.grown.set()

    def flush(self) -> None:
        pass

    async def wait(self, count: int) -> list[dict[str, object]]:
        async with asyncio.timeout(LIMIT_S):
            while len(self.rows) < count:
                self.grown.clear()
                await self.grown.wait()
        return self.rows


@dataclass
class Bench:
    """A gateway over engines."""

    engines: list[FakeEngine]
    router: Router
    source: ListSource
    lines: Lines
    stop: asyncio.Event
    task: asyncio.Task[None]
    port: int
    turned_cold: bool
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        self.clients.append(client)
        if self.turned_cold:
            assert (await client.get("/health")).status == 200
        return client

    async def ask(self, value: object, *, path: str = CHAT_PATH, **headers: str) -> Reply:
        client = await self.client()
        await client.ask(value, path=path, **headers)
        return await client.reply()

    async def get(self, path: str) -> Reply:
        return await (await self.client()).get(path)

    async def metric(self, start: str) -> list[str]:
        text = (await self.get("/metrics")).body.decode()
        return [line for line in text.splitlines() if line.startswith(start)]


Start = Callable[..., Awaitable[Bench]]


@pytest.fixture(params=["direct", "through uvicorn"])
async def start(request: pytest.FixtureRequest) -> AsyncIterator[Start]:
    """Starts a gateway over ``engines`` fake engines; every ledger must be empty at the end.

    A connection that has carried any other request is uvicorn's from then on, so each test is run
    both ways.
    """
    benches: list[Bench] = []
    all_fakes: list[FakeEngine] = []

    async def make(engines: int = 1, policy: str = "least-requests", **settings: object) -> Bench:
        fakes = [FakeEngine(f"e{i}") for i in range(engines)]
        all_fakes.extend(fakes)
        source = ListSource()
        for fake in fakes:
            await fake.start()
            source.put(fake.view)
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        stop, router, lines = asyncio.Event(), Router(policy), Lines()
        config = GatewaySettings.model_validate({"port": 0, **settings})
        task = asyncio.create_task(
            run_gateway(config, router, source, ready=ready.set_result, stop=stop, lines=lines)
        )
        await asyncio.wait((ready, task), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        port = int(ready.result().rsplit(":", 1)[1])
        cold = request.param != "direct"
        bench = Bench(fakes, router, source, lines, stop, task, port, cold)
        benches.append(bench)
        return bench

    yield make
    for fake in [*all_fakes, *(engine for bench in benches for engine in bench.engines)]:
        await fake.stop()
    for bench in benches:
        for client in bench.clients:
            client.writer.close()
        bench.stop.set()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(bench.task, return_exceptions=True)
        for engine in bench.engines:
            assert bench.router.inflight(EndpointId(engine.name)) == 0
        bench.router.check()
        outcomes = [row["outcome"] for row in bench.lines.rows]
        assert None not in outcomes


CHAT: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM: dict[str, object] = {**CHAT, "stream": True}
