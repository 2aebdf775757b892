"""API keys: read from a file of hashes, compared without telling by time. Reads one file."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path
from typing import Final

from headrace.core.errors import ConfigError, Unauthenticated
from headrace.core.ids import TenantId

ANONYMOUS: Final = TenantId("anonymous")
"""The tenant of every request where no keys are configured."""

MAX_FILE_BYTES: Final = 16 << 20

_NO_DIGEST: Final = b"0" * 64

_LINE: Final = re.compile(r"^([0-9a-f]{64})\s+([A-Za-z0-9._-]{1,64})$")


class Keys:
    """The keys that are accepted, by the SHA-256 of each; ``None`` accepts everyone."""

    def __init__(self, tenants: dict[bytes, TenantId] | None) -> None:
        self._tenants = tenants

    def tenant(self, authorization: bytes | None) -> TenantId:
        """Return whose key the ``Authorization`` header holds.

        Time tells nothing of a key that is accepted: what is looked up is the hash of what was
        sent, and the hash found is compared in constant time.

        Raises:
            Unauthenticated: if there is no bearer key, or none that we know.

        """
        if self._tenants is None:
            return ANONYMOUS
        scheme, _, key = (authorization or b"").partition(b" ")
        key = key.strip()
        if scheme.lower() != b"bearer" or not key:
            raise Unauthenticated("an API key is required: Authorization: Bearer <key>")
        digest = hashlib.sha256(key).hexdigest().encode()
        known = digest if digest in self._tenants else _NO_DIGEST
        if not hmac.compare_digest(known, digest):
            raise Unauthenticated("the API key is not valid")
        return self._tenants[known]


def load_keys(path: Path | None) -> Keys:
    """Read the keys file: per line a SHA-256 in hex and a tenant's name; ``#`` starts a comment.

    Make a line with ``printf %s "$KEY" | sha256sum``.

    Raises:
        ConfigError: one line per problem, each with the file's line number; also if it has no key,
            since that would shut everyone out.

    """
    if path is None:
        return Keys(None)
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"keys_file: {path}: cannot be read: {error.strerror}") from None
    tenants: dict[bytes, TenantId] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        match = _LINE.match(content)
        if match is None:
            problems.append(f"{path}:{number}: expected 64 hex digits and a tenant's name")
        elif match[1].encode() in tenants:
            problems.append(f"{path}:{number}: this key is listed twice")
        else:
            tenants[match[1].encode()] = TenantId(match[2])
    if not problems and not tenants:
        problems.append(f"{path}: holds no key; leave keys_file unset to serve everyone")
    if problems:
        raise ConfigError("keys_file:\n  " + "\n  ".join(problems))
    return Keys(tenants)
