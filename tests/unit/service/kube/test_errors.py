from __future__ import annotations

import pytest

from headrace.service.kube.errors import (
    KubeConflict,
    KubeError,
    KubeExists,
    KubeFailed,
    KubeForbidden,
    KubeGone,
    KubeNotFound,
    KubeRefused,
    KubeThrottled,
    error_of,
)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (400, "BadRequest", KubeRefused),
        (400, "Expired", KubeGone),
        (401, "Unauthorized", KubeForbidden),
        (403, "Forbidden", KubeForbidden),
        (404, "NotFound", KubeNotFound),
        (409, "AlreadyExists", KubeExists),
        (409, "Conflict", KubeConflict),
        (410, "Gone", KubeGone),
        (422, "Invalid", KubeRefused),
        (429, "TooManyRequests", KubeThrottled),
        (500, "InternalError", KubeFailed),
        (504, "Timeout", KubeFailed),
    ],
)
def test_status_and_reason_say_what_it_is(status: int, reason: str, kind: type[KubeError]) -> None:
    error = error_of(status, {"reason": reason, "message": "the server's words"})
    assert type(error) is kind
    assert (error.message, error.reason, error.status) == ("the server's words", reason, status)


@pytest.mark.parametrize("body", [None, [], "text", {"message": None}, {}])
def test_an_answer_without_words_is_told_by_its_status(body: object) -> None:
    assert error_of(502, body).message == "the API server answered 502"


@pytest.mark.parametrize(("header", "wait_s"), [("7", 7.0), (None, 1.0), ("soon", 1.0)])
def test_a_throttled_call_says_when_to_come_back(header: str | None, wait_s: float) -> None:
    error = error_of(429, {}, header)
    assert isinstance(error, KubeThrottled)
    assert error.retry_after_s == wait_s
