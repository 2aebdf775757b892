"""Artifacts on a web server. Touches the network through the session it is given.

An address that ends in a slash is a folder, which lists its files in ``SHA256SUMS``, as
``sha256sum * > SHA256SUMS`` writes it; any other address is one file.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import quote, unquote, urljoin

import aiohttp
from typing_extensions import override
from yarl import URL

from headrace.core.errors import ArtifactError, InvalidRequest
from headrace.runtime.artifacts.allowed import Uri, check_allowed, parse_uri
from headrace.runtime.artifacts.source import RemoteFile, Source

SUMS: Final = "SHA256SUMS"
MOST_SUMS_BYTES: Final = 4 << 20
MOST_REDIRECTS: Final = 5
READ_BYTES: Final = 1 << 18

MOVED: Final = frozenset({301, 302, 303, 307, 308})
LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of a server that may answer otherwise in a while."""

_SUM: Final = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class WebSource(Source):
    """A folder or a file of a web server.

    Args:
        uri: Its address.
        session: Where the connections are.
        allow: Where a server may send us on to.
        idle_s: A connection that brings nothing for so long is given up.
        most_files: More are refused.

    """

    def __init__(
        self,
        uri: Uri,
        session: aiohttp.ClientSession,
        allow: Sequence[Uri],
        idle_s: float,
        most_files: int,
    ) -> None:
        self._uri = uri
        self._session = session
        self._allow = allow
        self._timeout = aiohttp.ClientTimeout(total=None, connect=idle_s, sock_read=idle_s)
        self._most_files = most_files

    @override
    async def files(self) -> tuple[RemoteFile, ...]:
        if not self._uri.folder:
            name = unquote(self._uri.path[-1]) if self._uri.path else "index"
            return (await self._described(name, None),)
        sums = await self._sums()
        if len(sums) > self._most_files:
            raise ArtifactError(f"{self._uri.shown}: over {self._most_files} files")
        return tuple([await self._described(name, digest) for digest, name in sums])

    @override
    async def read(self, file: RemoteFile, start: int, stop: int) -> AsyncIterator[bytes]:
        headers = {"Range": f"bytes={start}-{stop - 1}"} if file.ranged else {}
        if file.version.startswith('"'):  # a weak validator cannot be asked for
            headers["If-Match"] = file.version
        async with self._open(self._address(file.path), headers) as reply:
            if reply.status == 412:
                raise ArtifactError(f"{file.path} was changed while it was fetched")
            if reply.status != (206 if file.ranged else 200):
                raise _refused(reply)
            if file.ranged and _range(reply) != (start, file.size_bytes):
                raise ArtifactError(f"{file.path}: the server sent another range than asked for")
            async for chunk in reply.content.iter_chunked(READ_BYTES):
                yield chunk

    async def _sums(self) -> list[tuple[str, str]]:
        """Return digests and names as the folder lists them."""
        async with self._open(self._address(SUMS), {}) as reply:
            if reply.status != 200:
                raise _refused(reply)
            text = b""
            async for chunk in reply.content.iter_chunked(READ_BYTES):
                text += chunk
                if len(text) > MOST_SUMS_BYTES:
                    raise ArtifactError(f"{SUMS}: longer than {MOST_SUMS_BYTES} bytes")
        found = []
        for line in text.decode("utf-8", "replace").splitlines():
            match = _SUM.fullmatch(line)
            if match is None:
                raise ArtifactError(f"{SUMS}: not a line of sha256sum: {line[:100]!r}")
            found.append((match[1].lower(), match[2].removeprefix("./")))
        return found

    async def _described(self, name: str, digest: str | None) -> RemoteFile:
        """Ask for one byte: what a server says to HEAD it need not do."""
        async with self._open(self._address(name), {"Range": "bytes=0-0"}) as reply:
            version = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
            if reply.status == 206 and (told := _range(reply)) is not None:
                return RemoteFile(name, told[1], version, sha256=digest)
            if reply.status == 416 and reply.headers.get("Content-Range") == "bytes */0":
                return RemoteFile(name, 0, version, sha256=digest)
            if reply.status != 200:
                raise _refused(reply)
            if reply.content_length is None:
                raise ArtifactError(f"{name}: the server does not tell its length")
            return RemoteFile(name, reply.content_length, version, ranged=False, sha256=digest)

    def _address(self, name: str) -> Uri:
        if not self._uri.folder:
            return self._uri
        more = tuple(quote(part, safe="") for part in name.split("/"))
        return replace(self._uri, path=self._uri.path + more, folder=False)

    @asynccontextmanager
    async def _open(
        self, at: Uri, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a GET; follow redirections, each to where we may read only."""
        told = {"Accept-Encoding": "identity", **headers}
        try:
            for _ in range(MOST_REDIRECTS + 1):
                async with self._session.get(
                    URL(str(at), encoded=True),
                    headers=told,
                    allow_redirects=False,
                    timeout=self._timeout,
                ) as reply:
                    if reply.status not in MOVED:
                        yield reply
                        return
                    at = self._moved(at, reply.headers.get("Location", ""))
        except TimeoutError:
            raise ArtifactError(f"{at.shown}: nothing came", retry_safe=True) from None
        except aiohttp.ClientError as error:
            raise ArtifactError(f"{at.shown}: {type(error).__name__}", retry_safe=True) from None
        raise ArtifactError(f"{self._uri.shown}: over {MOST_REDIRECTS} redirections")

    def _moved(self, at: Uri, location: str) -> Uri:
        try:
            to = parse_uri(urljoin(str(at), location))
            if to.scheme not in ("http", "https"):
                raise InvalidRequest(f"a redirection to {to.scheme}")
            check_allowed(to, self._allow)
        except InvalidRequest as error:
            raise ArtifactError(f"{at.shown} sends us on: {error.message}") from None
        return to


def _range(reply: aiohttp.ClientResponse) -> tuple[int, int] | None:
    """Return the first byte that was sent and the length of the whole."""
    match = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    return None if match is None else (int(match[1]), int(match[3]))


def _refused(reply: aiohttp.ClientResponse) -> ArtifactError:
    where = str(reply.url.with_query(None))
    return ArtifactError(f"{where}: status {reply.status}", retry_safe=reply.status in LATER)
