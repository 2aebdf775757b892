"""``headrace explain`` asks a gateway over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from headrace.cli.app import app
from tests.support.recorded import candidate, recorded, request

SEEN = (candidate("a", queued_ms=900.0), candidate("b"), candidate("c", queued_ms=30.0))


@asynccontextmanager
async def answering(status: str, body: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives one answer to everyone; yields its URL and the heads it was sent."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}", heads


async def explain(*words: str) -> Result:
    run: Callable[..., Coroutine[Any, Any, Result]] = asyncio.to_thread
    async with asyncio.timeout(30):
        return await run(CliRunner().invoke, app, ["explain", *words], env={"COLUMNS": "160"})


async def test_a_decision_is_fetched_with_the_key_and_explained(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-1\n")
    answer = {"attempts": [recorded(request(blocks=2_000), SEEN)]}
    async with answering("200 OK", msgspec.json.encode(answer)) as (url, heads):
        result = await explain("my:id.1", "--url", f"{url}/", "--api-key-file", str(key))
    assert result.exit_code == 0, result.output
    assert "b won with" in result.output
    assert "re-run: identical" in result.output
    assert heads[0].startswith(b"GET /headrace/v1/decisions/my:id.1 HTTP/1.1\r\n")
    assert b"Authorization: Bearer sk-1\r\n" in heads[0].replace(b"authorization", b"Authorization")


async def test_a_long_answer_is_read_to_its_end() -> None:
    seen = tuple(candidate(f"e{i:04}", queued_ms=float(i + 1)) for i in range(2_000))
    answer = {"attempts": [recorded(request(), seen)]}
    async with answering("200 OK", msgspec.json.encode(answer)) as (url, _):
        result = await explain("r", "--url", url, "--top", "2")
    assert result.exit_code == 0, result.output
    assert "1998 more are not shown" in result.output


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        ("404 Not Found", b'{"error": {"message": "no decision is kept"}}', "no decision is kept"),
        ("502 Bad Gateway", b"<html>", "status 502"),
        ("200 OK", b"<html>", "not a recorded decision"),
    ],
)
async def test_what_the_gateway_refuses_is_said_in_a_line(
    status: str, body: bytes, said: str
) -> None:
    async with answering(status, body) as (url, _):
        result = await explain("r", "--url", url)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output
