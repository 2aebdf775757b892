"""What an API server can answer instead of an object. Pure.

* KubeError                --   ``retry_safe``: the same call may succeed later as it stands
  + KubeUnreachable        --   no answer; a create may have been carried out all the same
  + KubeFailed            5xx   it answered that it cannot, for now
  + KubeThrottled         429   too many calls; carries ``retry_after_s``
  + KubeNotFound          404
  + KubeExists            409   something of that name is there
  + KubeConflict          409   the object changed since it was read, or another owns a field
  + KubeGone              410   that resource version is no longer known: list again
  + KubeForbidden    401, 403   the account may not
  + KubeRefused     other 4xx   the call or the object is wrong

Messages are the server's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from headrace.core.errors import HeadraceError

RETRY_AFTER_S: Final = 1.0
"""Where the server names no time."""


class KubeError(HeadraceError):
    """A call that failed; ``retry_safe`` says whether it may succeed later as it stands.

    ``details`` are the server's: which object, and for a refused one each field's cause.
    """

    retry_safe = False

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.details: Mapping[str, Any] = {}


class KubeUnreachable(KubeError):
    """No answer came, or it broke off."""

    retry_safe = True


class KubeFailed(KubeError):
    """The server cannot answer now."""

    retry_safe = True


class KubeThrottled(KubeError):
    """The server, or our own limit, has had too many calls."""

    retry_safe = True

    def __init__(
        self,
        message: str,
        *,
        status: int = 429,
        reason: str = "TooManyRequests",
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        super().__init__(message, status=status, reason=reason)
        self.retry_after_s = retry_after_s


class KubeNotFound(KubeError):
    """There is no such object, or no such kind."""


class KubeExists(KubeError):
    """Something of that name is there."""


class KubeConflict(KubeError):
    """The object is not what the call said it is: it changed, or was replaced."""


class KubeGone(KubeError):
    """The resource version is no longer known."""


class KubeForbidden(KubeError):
    """The account may not do that."""


class KubeRefused(KubeError):
    """The server found the call or the object wrong."""


_BY_STATUS: Final[Mapping[int, type[KubeError]]] = MappingProxyType(
    {401: KubeForbidden, 403: KubeForbidden, 404: KubeNotFound, 409: KubeConflict, 410: KubeGone}
)


def error_of(status: int, body: object, retry_after: str | None = None) -> KubeError:
    """Return the error that an answer stands for.

    Args:
        status: HTTP status, or the ``code`` of a ``Status`` object in a watch.
        body: The decoded ``Status`` object, or whatever else came.
        retry_after: The header's value, in seconds.

    """
    said: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    reason = str(said.get("reason") or "")
    message = str(said.get("message") or f"the API server answered {status}")
    error = _of(status, message, reason, retry_after)
    error.details = said.get("details") or {}
    return error


def _of(status: int, message: str, reason: str, retry_after: str | None) -> KubeError:
    if status == 429:  # an eviction that a budget forbids, too
        wait_s = float(retry_after) if retry_after and retry_after.isdigit() else RETRY_AFTER_S
        return KubeThrottled(message, reason=reason, retry_after_s=wait_s)
    kind = _BY_STATUS.get(status, KubeFailed if status >= 500 else KubeRefused)
    if reason == "AlreadyExists":
        kind = KubeExists
    elif reason == "Expired":
        kind = KubeGone
    return kind(message, status=status, reason=reason)
