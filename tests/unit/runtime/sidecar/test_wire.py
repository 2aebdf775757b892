from __future__ import annotations

import msgspec
import pytest

from headrace.core.errors import (
    ArtifactError,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    HeadraceError,
    InvalidRequest,
    Overloaded,
    Unauthenticated,
)
from headrace.runtime.sidecar.wire import error_from, error_reply


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("m", field="rank"), 400),
        (Unauthenticated("m"), 401),
        (Overloaded("m"), 429),
        (ArtifactError("m"), 422),
        (ArtifactError("m", retry_safe=True), 503),
        (EngineUnreachable("m"), 502),
        (EngineRefused("m"), 502),
        (EngineTimeout("m"), 504),
    ],
)
def test_errors_arrive_as_what_they_were(error: HeadraceError, status: int) -> None:
    told, body = error_reply(error)
    assert told == status
    again = error_from(told, msgspec.json.encode(body))
    assert type(again) is type(error)
    for attribute in ("message", "field", "retry_safe"):
        assert getattr(again, attribute, None) == getattr(error, attribute, None)


def test_an_answer_that_is_not_ours_is_a_refusal() -> None:
    for body in (b"", b"<html>", b'{"error": {"type": "Strange", "message": "m"}}'):
        assert isinstance(error_from(500, body), EngineRefused)
