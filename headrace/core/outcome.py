"""How a request ended: the only label used for it in logs, metrics and reports. Pure."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Every request ends in exactly one of these (INV-1)."""

    SERVED = "served"
    REFUSED_INVALID = "refused_invalid"
    REFUSED_AUTH = "refused_auth"
    REFUSED_FULL = "refused_full"
    CLIENT_GONE = "client_gone"
    ENGINE_FAILED = "engine_failed"
    CUT = "cut"
    """Still in flight when our own shutdown would wait no longer."""
    INTERNAL_ERROR = "internal_error"
