from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.head import HEAD_END, MAX_PLAIN_BODY_BYTES, Head, plain_head
from gateway.openai import Kind

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
FIELDS = b"Host: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"


def head(data: bytes) -> Head | None:
    return plain_head(data, data.find(HEAD_END))


def test_a_plain_request_is_read_with_its_names_in_lower_case() -> None:
    found = plain_head(LINE + FIELDS + b"\r\n{}", len(LINE + FIELDS) - 2)
    assert found is not None
    assert found.kind is Kind.CHAT
    assert found.length_bytes == 2
    assert found.headers == {
        b"host": b"x",
        b"content-type": b"application/json",
        b"content-length": b"2",
    }


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    found = head(LINE + b"Host: x\r\nContent-Length: \t 2 \t\r\n\r\n")
    assert found is not None
    assert found.headers[b"content-length"] == b"2"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/chat/completions HTTP/1.1\r\n",
        b"POST /v1/models HTTP/1.1\r\n",
        b"POST /v1/chat/completions?x=1 HTTP/1.1\r\n",
        b"POST /v1/chat/completions HTTP/1.0\r\n",
        b"POST http://x/v1/chat/completions HTTP/1.1\r\n",
        b"POST  /v1/chat/completions HTTP/1.1\r\n",
        b"\r\nPOST /v1/chat/completions HTTP/1.1\r\n",
    ],
)
def test_any_other_request_line_is_left_to_the_full_parser(line: bytes) -> None:
    assert head(line + FIELDS + b"\r\n") is None


@pytest.mark.parametrize(
    "field",
    [
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive, upgrade\r\n",
        b"Content-Length: 2\r\n",
        b"content-length: 3\r\n",
        b"Accept: a\r\naccept: b\r\n",
        b"X-Folded: a\r\n b\r\n",
        b"Bad Name: a\r\n",
        b"No-Colon\r\n",
        b": empty\r\n",
        b"Space-Before : a\r\n",
        b"X-Bare: a\nContent-Length: 9\r\n",
        b"X-Bare: a\rb\r\n",
        b"X-Nul: a\0b\r\n",
    ],
)
def test_anything_that_could_be_framed_or_read_in_two_ways_is_left_to_the_full_parser(
    field: bytes,
) -> None:
    assert head(LINE + FIELDS + field + b"\r\n") is None
    assert head(LINE + field + FIELDS + b"\r\n") is None


@pytest.mark.parametrize("length", [b"", b"-1", b"+2", b"0x2", b"2, 2", b"1_0", b"9" * 30])
def test_a_length_that_is_not_plain_digits_within_bounds_is_left_to_the_full_parser(
    length: bytes,
) -> None:
    assert head(LINE + b"Host: x\r\nContent-Length: " + length + b"\r\n\r\n") is None


def test_a_request_without_host_or_length_is_left_to_the_full_parser() -> None:
    assert head(LINE + b"Host: x\r\n\r\n") is None
    assert head(LINE + b"Content-Length: 2\r\n\r\n") is None


def test_the_longest_plain_body_is_the_limit_and_not_one_byte_more() -> None:
    def of(length: int) -> object:
        return head(LINE + b"Host: x\r\nContent-Length: %d\r\n\r\n" % length)

    assert of(MAX_PLAIN_BODY_BYTES) is not None
    assert of(MAX_PLAIN_BODY_BYTES + 1) is None


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_left_and_never_raises(data: bytes) -> None:
    for start in (b"", LINE, LINE + FIELDS):
        whole = start + data + HEAD_END
        found = plain_head(whole, whole.find(HEAD_END))
        assert found is None or found.headers[b"content-length"].isdigit()
