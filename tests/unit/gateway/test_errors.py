from __future__ import annotations

import json

import pytest

from gateway.dispatch import StaleConnection
from gateway.errors import PROBLEMS, error_event, problem_of, reply_to
from headrace.core import errors
from headrace.core.errors import HeadraceError, InvalidRequest, NoEndpoint, Overloaded
from headrace.core.outcome import Outcome


def leaves(kind: type[HeadraceError]) -> list[type[HeadraceError]]:
    below = [leaf for sub in kind.__subclasses__() for leaf in leaves(sub)]
    own = kind.__module__ == errors.__name__
    return below if below and any(k.__module__ == errors.__name__ for k in below) else [kind] * own


def test_every_error_a_client_can_meet_is_in_the_table() -> None:
    never_met = {errors.ConfigError, errors.StoreError, errors.ArtifactError}
    missing = set(leaves(HeadraceError)) - set(PROBLEMS) - never_met
    assert not missing


def test_an_error_we_do_not_know_is_our_own_fault() -> None:
    assert problem_of(HeadraceError("x")).outcome is Outcome.INTERNAL_ERROR


def test_a_kind_of_a_known_error_is_told_as_that() -> None:
    assert reply_to(StaleConnection("x")).status == 502


def test_the_shape_is_openais() -> None:
    reply = reply_to(InvalidRequest("n: expected an integer", field="n"))
    assert reply.status == 400
    assert json.loads(reply.body) == {
        "error": {
            "message": "n: expected an integer",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request",
        }
    }


@pytest.mark.parametrize(("wait_s", "header"), [(0.2, b"1"), (1.0, b"1"), (2.5, b"3")])
def test_whoever_finds_us_full_is_told_when_to_come_again(wait_s: float, header: bytes) -> None:
    for error in (Overloaded("full", retry_after_s=wait_s), NoEndpoint("x", retry_after_s=wait_s)):
        assert (b"retry-after", header) in reply_to(error).headers


def test_what_a_client_sent_is_quoted_in_bounds() -> None:
    body = reply_to(InvalidRequest("x" * 10_000 + "\ud800", field="\udfff")).body
    assert len(body) < 1_000
    json.loads(body)


def test_an_event_is_one_line_of_data() -> None:
    event = error_event("a\nb", PROBLEMS[InvalidRequest])
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n") == 2
