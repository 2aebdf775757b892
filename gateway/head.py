"""Reads the head of a plain request on a relayed route; anything else is left to uvicorn. Pure.

Strict on purpose: one exact request line, well-formed fields, none twice, a length in digits and no
other way of framing. What is refused here is not an error, only not plain: a full HTTP parser
looks at it next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.dispatch import PATHS
from gateway.openai import Kind

HEAD_END: Final = b"\r\n\r\n"

MAX_PLAIN_BODY_BYTES: Final = 4 << 20
"""Longer bodies are read by uvicorn, which holds back a client that sends faster than we admit."""

_LINES: Final[Mapping[bytes, Kind]] = {
    f"POST {path} HTTP/1.1\r\n".encode(): kind for kind, path in PATHS.items()
}

_FIELD: Final = re.compile(rb"(?m)^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n\0]*)\r\n")
"""Source: RFC 9110 section 5.1 (token) and RFC 9112 section 5, without obsolete folding."""

_NOT_PLAIN: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})

_MAX_LENGTH_DIGITS: Final = len(str(MAX_PLAIN_BODY_BYTES))


@dataclass(slots=True)
class Head:
    """What a plain request declares; header names are in lower case."""

    kind: Kind
    headers: dict[bytes, bytes]
    length_bytes: int


def plain_head(data: bytes, end: int) -> Head | None:
    """Read the head in ``data[:end + 4]``, where ``end`` is the offset of the empty line.

    Returns None when the request is anything but a plain one.
    """
    first = data.find(b"\r\n") + 2
    kind = _LINES.get(data[:first])
    if kind is None:
        return None
    fields = data[first : end + 2]
    pairs = _FIELD.findall(fields)
    headers = {name.lower(): value.rstrip(b" \t") for name, value in pairs}
    # every line is one field, and none came twice
    if not len(headers) == len(pairs) == fields.count(b"\n"):
        return None
    length = headers.get(b"content-length")
    if length is None or len(length) > _MAX_LENGTH_DIGITS or not length.isdigit():
        return None
    length_bytes = int(length)
    connection = headers.get(b"connection")
    if (
        length_bytes > MAX_PLAIN_BODY_BYTES
        or (connection is not None and connection.lower() != b"keep-alive")
        or not _NOT_PLAIN.isdisjoint(headers)
        or b"host" not in headers
    ):
        return None
    return Head(kind, headers, length_bytes)
