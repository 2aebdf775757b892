"""A web server of files on loopback that breaks connections when it is told to."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class FileServer:
    """Serves ``files`` by path; change what it does at any time.

    ``cut_after`` aborts each reply after so many bytes; ``cuts`` is how many replies that befalls.
    ``meet`` makes replies wait until as many as it has parties are being given, once.
    Once ``stall_after_bytes`` have been sent in all, replies wait and ``stalled`` is set.
    ``fail`` are statuses to answer with first, one per request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranged: bool = True
    etags: bool = True
    cut_after: int = 0
    cuts: int = 0
    fail: list[int] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent_bytes: int = 0
    meet: asyncio.Barrier | None = None
    stall_after_bytes: int | None = None
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    open: int = 0
    most_open: int = 0
    url: str = ""

    async def __aenter__(self) -> FileServer:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def folder(self, at: str, files: Mapping[str, bytes]) -> None:
        """Serve a folder with its SHA256SUMS."""
        sums = "".join(f"{hashlib.sha256(body).hexdigest()}  {n}\n" for n, body in files.items())
        for name, body in {**files, "SHA256SUMS": sums.encode()}.items():
            self.files[f"{at}/{name}"] = body

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            if self.meet is not None and request.headers.get("Range") != "bytes=0-0":
                await self.meet.wait()
                self.meet = None
            return await self._reply(request)
        finally:
            self.open -= 1

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        told = request.headers.get("Range", "")
        self.asked.append((path, told))
        if self.fail:
            return web.Response(status=self.fail.pop(0))
        if path not in self.files:
            where = self.moved.get(path)
            return (
                web.Response(status=302, headers={"Location": where})
                if where
                else web.Response(status=404)
            )
        body = self.files[path]
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'} if self.etags else {}
        if (wanted := request.headers.get("If-Match")) and wanted != headers.get("ETag"):
            return web.Response(status=412)
        if self.stall_after_bytes is not None and self.sent_bytes >= self.stall_after_bytes:
            self.stalled.set()
            await asyncio.Event().wait()
        status = 200
        if (match := re.fullmatch(r"bytes=(\d+)-(\d+)", told)) and self.ranged:
            first, last = int(match[1]), min(int(match[2]), len(body) - 1)
            if first >= len(body):
                return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            status, body = 206, body[first : last + 1]
        reply = web.StreamResponse(status=status, headers=headers)
        reply.content_length = len(body)
        await reply.prepare(request)
        if self.cuts and len(body) > self.cut_after:
            self.cuts -= 1
            self.sent_bytes += self.cut_after
            await reply.write(body[: self.cut_after])
            assert request.transport is not None
            request.transport.close()  # what was written goes out, and then nothing more
            return reply
        self.sent_bytes += len(body)
        await reply.write(body)
        await reply.write_eof()
        return reply
