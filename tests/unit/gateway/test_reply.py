from __future__ import annotations

import json

import pytest

from gateway.reply import judge
from headrace.core.errors import EngineRefused, HeadraceError, NoEndpoint, Overloaded
from headrace.core.outcome import Outcome
from headrace.core.record import Usage

JSON = b"application/json"


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def test_a_reply_is_passed_on_as_it_came_and_its_usage_read() -> None:
    sent = body({"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 4}})
    judged = judge(200, JSON, sent)
    assert judged.body is sent
    assert (judged.outcome, judged.usage) == (Outcome.SERVED, Usage(4, 0))


@pytest.mark.parametrize("sent", [b"", b"text", body([1]), body({"usage": 3})])
def test_what_we_cannot_read_is_passed_on(sent: bytes) -> None:
    judged = judge(200, b"text/plain", sent)
    assert (judged.body, judged.content_type, judged.usage) == (sent, b"text/plain", None)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (429, Overloaded),
        (503, NoEndpoint),
        (500, EngineRefused),
        (502, EngineRefused),
        (401, EngineRefused),
        (403, EngineRefused),
        (302, EngineRefused),
        (101, EngineRefused),
    ],
)
def test_statuses_that_say_nothing_of_the_request_are_for_another_endpoint(
    status: int, error: type[HeadraceError]
) -> None:
    with pytest.raises(error):
        judge(status, JSON, body({"error": {"message": "internals"}}))


def test_one_aborted_choice_fails_the_reply() -> None:
    choices = [{"finish_reason": "stop"}, {"finish_reason": "abort"}]
    with pytest.raises(EngineRefused):
        judge(200, JSON, body({"choices": choices}))


def test_a_refusal_in_openais_shape_is_passed_on() -> None:
    sent = body({"error": {"message": "too long", "type": "t", "param": None, "code": 400}})
    judged = judge(400, JSON, sent)
    assert (judged.outcome, judged.body) == (Outcome.REFUSED_INVALID, sent)


@pytest.mark.parametrize("sent", [b"<html>", body({"detail": "no"}), body({"error": "no"})])
def test_a_refusal_in_another_shape_is_put_into_it(sent: bytes) -> None:
    judged = judge(404, b"text/html", sent)
    assert set(json.loads(judged.body)["error"]) == {"message", "type", "param", "code"}
    assert judged.content_type == JSON
