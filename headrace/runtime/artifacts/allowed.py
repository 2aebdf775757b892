"""Which sources may be fetched. Pure.

A sidecar reads with its own credentials from inside the cluster: what it may be told to read is a
list, and what is on it is compared segment by segment, after everything that could mean two things
has been refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from headrace.core.errors import InvalidRequest

SCHEMES: Final = ("file", "http", "https", "s3", "gs", "hf")
MOST_URI_CHARS: Final = 2_048

_PLAIN: Final = re.compile(r"[A-Za-z0-9._~@:=+,$()!*' %-]*")
_ESCAPED: Final = re.compile(r"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Uri:
    """Where something lies.

    Attributes:
        scheme: One of ``SCHEMES``.
        host: Host and port, or bucket; empty for files, and in a prefix for all of them.
        path: Segments; none is empty, ``.`` or ``..``.
        folder: Whether it ended in a slash.
        query: Of an HTTP URL, with its question mark; a signature, say.

    """

    scheme: str
    host: str
    path: tuple[str, ...]
    folder: bool = False
    query: str = ""

    def __str__(self) -> str:
        path = "/".join(self.path) + ("/" if self.folder and self.path else "")
        return f"{self.scheme}://{self.host}/{path}{self.query}"

    @property
    def shown(self) -> str:
        """The same for logs and messages: a query often holds a signature."""
        return str(self) if not self.query else str(self).removesuffix(self.query) + "?…"


def parse_uri(text: str, *, prefix: bool = False) -> Uri:
    """Return the parts of a URI; an absolute path is read as ``file://``.

    Args:
        text: What was given.
        prefix: Whether it may stop after the scheme (``hf://``) or the host.

    Raises:
        InvalidRequest: for what is not one, and for what two readers might read differently.

    """
    if len(text) > MOST_URI_CHARS or not text.isascii() or not text.isprintable() or "\\" in text:
        raise _wrong(text, f"expected up to {MOST_URI_CHARS} printable ASCII characters, no \\")
    if text.startswith("/"):
        text = "file://" + text
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise _wrong(text, f"expected {', '.join(f'{known}://' for known in SCHEMES)} or a path")
    if "#" in rest or ("?" in rest and scheme not in ("http", "https")):
        raise _wrong(text, "no fragment, and no query but in http(s)")
    body, mark, query = rest.partition("?")
    host, slash, path = body.partition("/")
    _check_host(text, scheme, host, prefix=prefix)
    raw = path.split("/")
    segments = tuple(segment for segment in raw if segment)
    if any(not segment for segment in raw[:-1]) or any(map(_two_faced, segments)):
        raise _wrong(text, "no empty, '.' or '..' segments, and no escaped ones")
    if not prefix and not segments and scheme not in ("http", "https"):
        raise _wrong(text, "expected a path after the host or bucket")
    folder = bool(slash) and path.endswith("/")
    if scheme in ("http", "https"):
        host = host.lower()
    return Uri(scheme, host, segments, folder, mark + query)


def check_allowed(uri: Uri, allow: Iterable[Uri]) -> None:
    """Return if ``uri`` begins with one of ``allow``.

    Raises:
        InvalidRequest: otherwise; the message says what is allowed.

    """
    allowed = list(allow)
    if not any(_begins(uri, prefix) for prefix in allowed):
        known = ", ".join(map(str, allowed)) or "nothing"
        raise InvalidRequest(
            f"source: {uri.shown} is not allowed; artifacts.allow has {known}", field="source"
        )


def _begins(uri: Uri, prefix: Uri) -> bool:
    if uri.scheme != prefix.scheme:
        return False
    if prefix.host and uri.host != prefix.host:
        return False
    return uri.path[: len(prefix.path)] == prefix.path


def _check_host(text: str, scheme: str, host: str, *, prefix: bool) -> None:
    if scheme == "file":
        if host:
            raise _wrong(text, "expected file:///an/absolute/path")
        return
    if not host:
        if not prefix:
            raise _wrong(text, "expected a host, bucket or owner after ://")
        return
    if "@" in host or "%" in host:
        raise _wrong(text, "no user, password or escape in the host")
    if scheme in ("http", "https"):
        try:
            urlsplit(f"{scheme}://{host}").port  # noqa: B018 -- raises for what is no port
        except ValueError:
            raise _wrong(text, "expected HOST or HOST:PORT") from None


def _two_faced(segment: str) -> bool:
    """Return whether someone after us might read a segment as another path."""
    if segment in (".", "..") or not _PLAIN.fullmatch(segment):
        return True
    return any(
        int(code, 16) < 0x20 or int(code, 16) in b"./\\%" for code in _ESCAPED.findall(segment)
    )


def _wrong(text: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"source: {text[:200]!r}: {expected}", field="source")
