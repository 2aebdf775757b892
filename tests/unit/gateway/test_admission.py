from __future__ import annotations

import pytest

from gateway.admission import Admission, client_request_id
from gateway.config import LimitSettings
from gateway.keys import Keys
from headrace.core.errors import BodyTooLarge, InvalidRequest, Overloaded, UnsupportedMedia

JSON = {b"content-type": b"application/json"}


def admission(**limits: object) -> Admission:
    return Admission(LimitSettings.model_validate(limits), Keys(None))


def test_places_are_bounded_and_come_back() -> None:
    gate = admission(concurrent_requests=2, retry_after_s=3.0)
    first, second = gate.enter(JSON), gate.enter(JSON)
    with pytest.raises(Overloaded) as raised:
        gate.enter(JSON)
    assert raised.value.retry_after_s == 3.0
    first.leave()
    third = gate.enter(JSON)
    for place in (second, third):
        place.leave()
    assert (gate.inflight, gate.held_bytes) == (0, 0)


def test_one_body_and_all_bodies_are_bounded() -> None:
    gate = admission(body_bytes=2_000, total_body_bytes=3_000)
    one, other = gate.enter(JSON), gate.enter(JSON)
    one.hold(1_500)
    with pytest.raises(BodyTooLarge):
        one.hold(501)
    other.hold(1_500)
    with pytest.raises(Overloaded):
        other.hold(1)
    one.leave()
    other.hold(500)
    other.leave()
    assert gate.held_bytes == 0


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, UnsupportedMedia),
        ({b"content-type": b"text/plain"}, UnsupportedMedia),
        ({**JSON, b"content-encoding": b"gzip"}, UnsupportedMedia),
        ({**JSON, b"content-length": b"-1"}, InvalidRequest),
        ({**JSON, b"content-length": b"1e3"}, InvalidRequest),
        ({**JSON, b"content-length": b"9" * 5_000}, BodyTooLarge),
        ({**JSON, b"content-length": b"2001"}, BodyTooLarge),
    ],
)
def test_a_request_is_refused_by_its_headers_and_takes_no_place(
    headers: dict[bytes, bytes], error: type[Exception]
) -> None:
    gate = admission(body_bytes=2_000)
    with pytest.raises(error):
        gate.enter(headers)
    assert gate.inflight == 0


@pytest.mark.parametrize("media", [b"application/json; charset=utf-8", b"APPLICATION/JSON"])
def test_json_is_known_in_its_spellings(media: bytes) -> None:
    admission().enter({b"content-type": media}).leave()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        (b"", None),
        (b"abc-1.2_3:4", "abc-1.2_3:4"),
        (b"a b", None),
        (b"a\r\nx: y", None),
        (b"\xff", None),
        (b"a" * 128, "a" * 128),
        (b"a" * 129, None),
    ],
)
def test_only_a_short_token_is_taken_for_a_request_id(
    header: bytes | None, expected: str | None
) -> None:
    assert client_request_id(header) == expected
