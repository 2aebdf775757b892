"""Who may come in, and how much of it at once. No I/O; the state is two counters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gateway.keys import Keys
from headrace.core.errors import BodyTooLarge, InvalidRequest, Overloaded, UnsupportedMedia
from headrace.core.ids import TenantId

if TYPE_CHECKING:
    from gateway.config import LimitSettings

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

JSON: Final = b"application/json"

MAX_LENGTH_DIGITS: Final = 18


class Place:
    """One request's place in the gateway. ``leave`` must be called, once.

    Attributes:
        tenant: Whose request it is.
        held_bytes: Bytes of its body that are held.

    """

    __slots__ = ("_admission", "held_bytes", "tenant")

    def __init__(self, admission: Admission, tenant: TenantId) -> None:
        self._admission = admission
        self.tenant = tenant
        self.held_bytes = 0

    def hold(self, more_bytes: int) -> None:
        """Make room for more bytes of the body, before they are kept.

        Raises:
            BodyTooLarge: if this body is over the limit with them.
            Overloaded: if all bodies together are.

        """
        self._admission.hold(more_bytes, self.held_bytes)
        self.held_bytes += more_bytes

    def leave(self) -> None:
        """Give the place and the bytes back."""
        self._admission.leave(self.held_bytes)


class Admission:
    """Admits requests up to the limits. One owner.

    Attributes:
        inflight: Requests admitted that have not left.
        held_bytes: Bytes of their bodies.

    """

    def __init__(self, limits: LimitSettings, keys: Keys) -> None:
        self._limits = limits
        self._keys = keys
        self.inflight = 0
        self.held_bytes = 0

    def enter(self, headers: Mapping[bytes, bytes]) -> Place:
        """Admit a request by its headers, before any of its body is read.

        Raises:
            Unauthenticated: without a key that we know.
            UnsupportedMedia: if the body is not declared as JSON.
            InvalidRequest: if its declared length makes no sense.
            BodyTooLarge: if its declared length is over the limit.
            Overloaded: if there is no room now.

        """
        tenant = self._keys.tenant(headers.get(b"authorization"))
        media = headers.get(b"content-type", b"")
        if media != JSON and media.partition(b";")[0].strip().lower() != JSON:
            raise UnsupportedMedia("expected Content-Type: application/json")
        if b"content-encoding" in headers:
            raise UnsupportedMedia("expected a body without Content-Encoding")
        length = headers.get(b"content-length")
        if length is not None:
            if not length.isdigit():
                raise InvalidRequest("Content-Length is not a number")
            if len(length) > MAX_LENGTH_DIGITS or int(length) > self._limits.body_bytes:
                raise self._too_large()
        if self.inflight >= self._limits.concurrent_requests:
            raise self._overloaded("the gateway serves as many requests as it may")
        self.inflight += 1
        return Place(self, tenant)

    def hold(self, more_bytes: int, so_far_bytes: int) -> None:
        """Make room for ``more_bytes`` of a body of which ``so_far_bytes`` are held; see Place."""
        if so_far_bytes + more_bytes > self._limits.body_bytes:
            raise self._too_large()
        if self.held_bytes + more_bytes > self._limits.total_body_bytes:
            raise self._overloaded("the gateway holds as many request bodies as it may")
        self.held_bytes += more_bytes

    def leave(self, held_bytes: int) -> None:
        """Take back a place and the bytes held with it; see Place."""
        self.inflight -= 1
        self.held_bytes -= held_bytes
        assert self.inflight >= 0
        assert self.held_bytes >= 0

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is longer than {self._limits.body_bytes} bytes")

    def _overloaded(self, message: str) -> Overloaded:
        return Overloaded(message, retry_after_s=self._limits.retry_after_s)


def client_request_id(header: bytes | None) -> str | None:
    """Return the client's own request id if it is one we can pass on and log, else None."""
    if header is None or _REQUEST_ID.fullmatch(header) is None:
        return None
    return header.decode("ascii")
