"""Clients that stream without a pause, and count how each stream ended."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp

FIRST_BYTE_S = 60.0
SAMPLES = 5


@dataclass
class Counts:
    """How streams ended: served whole, cut after their first byte, or failed before."""

    ends: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All that ended."""
        return self.ends.total()

    def trouble(self, kind: str, what: str) -> None:
        """Count one that did not end as it should."""
        self.ends[kind] += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(f"{kind}: {what}")


class Load:
    """Streams in a thread of its own, for as long as the ``with`` lasts.

    Args:
        url: Of the gateway.
        model: To ask for.
        streams: At once.
        tokens: Of each reply: how long a stream lasts.

    """

    def __init__(self, url: str, model: str, *, streams: int = 4, tokens: int = 200) -> None:
        self.counts = Counts()
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self._streams = streams
        self._tokens = tokens
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=120)
        assert not self._thread.is_alive(), "a stream did not end in two minutes"

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=FIRST_BYTE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, n) for n in range(self._streams)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            await self._stream(session, f"client {number}, turn {turn}: tell me of rivers")

    async def _stream(self, session: aiohttp.ClientSession, prompt: str) -> None:
        body = {
            "model": self._model,
            "stream": True,
            "max_tokens": self._tokens,
            "ignore_eos": True,
            "messages": [{"role": "user", "content": prompt}],
        }
        begun = False
        try:
            async with session.post(self._url, json=body) as reply:
                if reply.status != 200:
                    self.counts.trouble("failed", f"{reply.status} {(await reply.read())[:300]!r}")
                    await asyncio.sleep(0.2)
                    return
                tail = b""
                async for piece in reply.content.iter_any():
                    begun = True
                    tail = (tail + piece)[-4_000:]
        except (TimeoutError, aiohttp.ClientError) as error:
            self.counts.trouble("cut" if begun else "failed", repr(error))
            await asyncio.sleep(0.2)
            return
        if tail.rstrip().endswith(b"data: [DONE]") and b'"error":' not in tail:
            self.counts.ends["served"] += 1
        else:
            self.counts.trouble("cut", repr(tail[-300:]))
