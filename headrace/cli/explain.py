"""What ``headrace explain`` does: fetch or read decisions, make them again, tell."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from rich.console import Console

from headrace.cli.explained import Told, told
from headrace.cli.keyfile import read_key
from headrace.core.errors import ConfigError, HeadraceError, RequestError
from headrace.service.http import HttpLimits, make_session
from router.catalog import make_policy
from router.record import RecordedDecision, decode, replay

MOST_BYTES: Final = 64 << 20
"""Longest decision read; one over 1,000 endpoints takes half a megabyte."""

LIMITS: Final = HttpLimits(connections=1, connect_s=5.0, read_s=10.0, total_s=30.0)


@dataclass(frozen=True, slots=True)
class Explaining:
    """One explanation as asked for."""

    request_id: str | None
    url: str
    file: Path | None
    policy: str | None
    top: int
    api_key_file: Path | None
    json: bool


def run(asked: Explaining) -> bool:
    """Print why; returns whether deciding again gave what was recorded.

    Raises:
        ConfigError: if something asked for cannot be done.
        HeadraceError: if the gateway does not know the request, or does not answer.

    """
    if (asked.request_id is None) == (asked.file is None):
        raise ConfigError("explain: name a request id, or a file with --file")
    if asked.policy is not None:
        make_policy(asked.policy)  # an unknown name stops us before anything is fetched
    records = decode(_read(asked.file) if asked.file is not None else asyncio.run(_fetch(asked)))
    found = [_told(record, asked.policy) for record in records]
    if asked.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
        sys.stdout.flush()
    else:
        console = Console()
        for one in found:
            one.print(console, top=asked.top)
    return all(one.rerun.identical for one in found)


def _told(record: RecordedDecision, policy: str | None) -> Told:
    other = None if policy is None else replay(record, policy)
    return told(record, replay(record), policy, other)


def _read(file: Path) -> bytes:
    """Read a file, or standard input for ``-``."""
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MOST_BYTES)
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"file: cannot read {file}: {error.strerror}") from None


async def _fetch(asked: Explaining) -> bytes:
    """Ask the gateway for the decisions on a request."""
    parts = urlsplit(asked.url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"url: {asked.url!r} is not an http or https URL")
    assert asked.request_id is not None
    url = f"{asked.url.rstrip('/')}/headrace/v1/decisions/{quote(asked.request_id, safe='')}"
    key = read_key(asked.api_key_file)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        async with make_session(LIMITS) as session, session.get(url, headers=headers) as reply:
            body = b""
            async for piece in reply.content.iter_any():
                body += piece
                if len(body) > MOST_BYTES:
                    raise HeadraceError(f"the answer is longer than {MOST_BYTES} bytes")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise HeadraceError(f"{asked.url} does not answer: {error or 'too slow'}") from None
    if reply.status != 200:
        raise RequestError(_refusal(reply.status, body))
    return body


def _refusal(status: int, body: bytes) -> str:
    """Return what the gateway said, in a line."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the gateway answered with status {status}"
