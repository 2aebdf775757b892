from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
import pytest


@dataclass
class FakeOpenAi:
    """A tiny HTTP server that streams as many tokens as it is asked for."""

    url: str = ""
    chunk_gap_s: float = 0.0
    status: int = 200
    cut_after_chunks: int | None = None
    close_after_reply: bool = False
    error_in_stream: bool = False
    bodies: list[dict[str, object]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    gone: int = 0
    three_came: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone += 1
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        length = next(
            int(line[16:]) for line in head.split("\r\n") if line.startswith("content-length: ")
        )
        raw = await reader.readexactly(length)
        if head.startswith("GET"):
            self._plain(writer, 200, {"data": [{"id": "fake"}]})
            return True
        body = orjson.loads(raw)
        self.bodies.append(body)
        if len(self.bodies) == 3:
            self.three_came.set()
        if self.status != 200:
            self._plain(writer, self.status, {"error": {"message": "no"}})
            return True
        return await self._stream(writer, body)

    def _plain(self, writer: asyncio.StreamWriter, status: int, body: object) -> None:
        raw = orjson.dumps(body)
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
        writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(raw) + raw)

    async def _stream(self, writer: asyncio.StreamWriter, body: dict[str, object]) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        tokens = body["max_tokens"]
        assert isinstance(tokens, int)
        for index in range(tokens):
            if index == self.cut_after_chunks:
                return False
            self._event(writer, {"choices": [{"text": "abcd"}], "usage": None})
            await writer.drain()
            await asyncio.sleep(self.chunk_gap_s)
        if self.error_in_stream:
            self._event(writer, {"error": {"message": "engine died"}})
        prompt_tokens = len(str(body.get("prompt", ""))) // 4
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "prompt_tokens_details": {"cached_tokens": prompt_tokens // 2},
        }
        self._event(writer, {"choices": [], "usage": usage})
        self._chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        return not self.close_after_reply

    def _event(self, writer: asyncio.StreamWriter, event: object) -> None:
        self._chunk(writer, b"data: %b\n\n" % orjson.dumps(event))

    def _chunk(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


@pytest.fixture
async def fake() -> AsyncIterator[FakeOpenAi]:
    server = FakeOpenAi()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
