"""Every error this system raises on purpose. Pure.

* HeadraceError
  + ConfigError              --   a setting is missing, unknown or out of range: do not start
  + RequestError                  the caller is wrong
    - InvalidRequest         400  a field is missing, malformed or out of range
    - Unauthenticated        401  no key, or one we do not know
    - ModelNotFound          404  nobody serves that name
    - UnsupportedMedia       415  the body is not JSON
    - BodyTooLarge           413  longer than the configured limit
  + CapacityError                 we are full, for now
    - Overloaded             429  admitted traffic is at its limit; carries ``retry_after_s``
    - NoEndpoint             503  nothing ready can serve the model right now
  + EngineError                   an engine failed us; ``retry_safe`` says whether to try another
    - EngineUnreachable      502  no connection, or it broke before the first byte
    - EngineTimeout          504  no byte within the limit
    - EngineRefused          502  it answered 5xx before the first byte
    - StreamBroken           --   it stopped in the middle of a reply already begun
  + StoreError               --   the shared store did not answer; no client's request needs it
  + ArtifactError            --   files of a model or adapter cannot be had; has ``retry_safe``

The status beside each leaf is what ``gateway.app`` answers with; nothing else knows HTTP.
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Base of the errors a caller may want to tell apart."""


class ConfigError(HeadraceError):
    """A setting is missing, unknown or out of range; the process must not start."""


class RequestError(HeadraceError):
    """The caller's request is wrong; ``field`` names where, dotted, or is None."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidRequest(RequestError):
    """A field is missing, malformed or out of range."""


class Unauthenticated(RequestError):
    """No key was given, or one we do not know."""


class ModelNotFound(RequestError):
    """Nobody serves the model named."""


class UnsupportedMedia(RequestError):
    """The body is not declared as JSON."""


class BodyTooLarge(RequestError):
    """The body is longer than the configured limit."""


class CapacityError(HeadraceError):
    """There is no room for the request now; ``retry_after_s`` is when to try again."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class Overloaded(CapacityError):
    """Admitted traffic is at its limit."""


class NoEndpoint(CapacityError):
    """Nothing ready can serve the model right now."""


class EngineError(HeadraceError):
    """An engine failed; ``retry_safe`` is true when no byte of a reply had been seen."""

    retry_safe = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EngineUnreachable(EngineError):
    """No connection could be made, or it broke before the first byte."""


class EngineTimeout(EngineError):
    """No byte came within the limit."""


class EngineRefused(EngineError):
    """The engine answered with a server error before the first byte."""


class StreamBroken(EngineError):
    """The engine stopped in the middle of a reply already begun."""

    retry_safe = False


class StoreError(HeadraceError):
    """The store that replicas share did not answer, or refused."""


class ArtifactError(HeadraceError):
    """Files of a model or an adapter cannot be had.

    ``retry_safe`` is true when the same call may succeed later (a connection, a full disk), false
    when it cannot (nothing is there, the checksum differs).
    """

    def __init__(self, message: str, *, retry_safe: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retry_safe = retry_safe
