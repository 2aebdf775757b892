from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sse import MAX_EVENT_BYTES, StreamMeter, Verdict
from headrace.core.record import Usage


def event(value: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"


def token(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"delta": {"content": text}, "finish_reason": finish}]})


USAGE = event(
    {
        "choices": [],
        "usage": {
            "prompt_tokens": 40,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 32},
        },
    }
)
DONE = event("[DONE]")
WHOLE = token("a") + token("b") + token("", "stop") + USAGE + DONE


def fed(meter: StreamMeter, *pieces: bytes) -> bytes:
    return b"".join(meter.feed(piece) for piece in pieces)


def test_a_piece_of_plain_tokens_is_the_same_object() -> None:
    piece = token("a")
    assert StreamMeter(drop_usage=True).feed(piece) is piece


def test_usage_is_read_and_dropped() -> None:
    meter = StreamMeter(drop_usage=True)
    assert fed(meter, WHOLE) == WHOLE.replace(USAGE, b"")
    assert meter.usage == Usage(40, 3, 32)
    assert meter.verdict is Verdict.DONE


def test_usage_is_read_and_kept_for_a_client_that_asked() -> None:
    meter = StreamMeter(drop_usage=False)
    assert fed(meter, WHOLE) == WHOLE
    assert meter.usage == Usage(40, 3, 32)


def test_usage_beside_choices_is_never_dropped() -> None:
    last = event({"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 1}})
    meter = StreamMeter(drop_usage=True)
    assert fed(meter, last, DONE) == last + DONE
    assert meter.usage == Usage(1, 0)


@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=12), drop=st.booleans())
def test_however_it_is_cut_the_client_sees_the_same(cuts: list[int], drop: bool) -> None:
    meter = StreamMeter(drop_usage=drop)
    edges = [0, *sorted(cuts), len(WHOLE)]
    pieces = [WHOLE[a:b] for a, b in itertools.pairwise(edges) if a != b]
    assert fed(meter, *pieces) == (WHOLE.replace(USAGE, b"") if drop else WHOLE)
    assert meter.verdict is Verdict.DONE
    assert meter.usage == Usage(40, 3, 32)


def test_other_line_ends_and_spaces_are_understood() -> None:
    text = WHOLE.replace(b"\n", b"\r\n").replace(b'":', b'": ')
    meter = StreamMeter(drop_usage=True)
    out = fed(meter, *(text[at : at + 9] for at in range(0, len(text), 9)))
    assert meter.verdict is Verdict.DONE
    assert b"prompt_tokens" not in out
    assert meter.usage == Usage(40, 3, 32)


def test_comments_pass() -> None:
    meter = StreamMeter(drop_usage=True)
    assert fed(meter, b": ping\n\n", WHOLE).startswith(b": ping\n\n")


def test_text_that_talks_of_usage_is_left_alone() -> None:
    piece = token('the "usage" and "finish_reason":"stop" of [DONE]')
    meter = StreamMeter(drop_usage=True)
    assert fed(meter, piece) == piece
    assert meter.verdict is Verdict.OPEN
    assert meter.usage is None


def test_done_without_a_finish_reason_is_a_failure() -> None:
    meter = StreamMeter(drop_usage=True)
    assert fed(meter, token("a"), DONE) == token("a")
    assert meter.verdict is Verdict.FAILED
    assert "finish reason" in meter.reason


def test_an_abort_is_a_failure() -> None:
    meter = StreamMeter(drop_usage=True)
    assert fed(meter, token("a"), token("", "abort"), DONE) == token("a")
    assert meter.verdict is Verdict.FAILED


def test_an_end_without_done_is_a_failure() -> None:
    meter = StreamMeter(drop_usage=True)
    fed(meter, token("a", "stop"))
    assert meter.ended() == b""
    assert meter.verdict is Verdict.FAILED


def test_what_was_held_back_at_the_end_is_handed_over() -> None:
    meter = StreamMeter(drop_usage=True)
    fed(meter, token("a", "stop"), DONE.rstrip(b"\n"))
    assert meter.ended().startswith(b"data: [DONE]")
    assert meter.verdict is Verdict.DONE


@pytest.mark.parametrize("code", [500, None, "500"])
def test_an_error_of_the_engine_is_a_failure_and_not_shown(code: object) -> None:
    meter = StreamMeter(drop_usage=True)
    assert fed(meter, event({"error": {"message": "internals", "code": code}})) == b""
    assert meter.verdict is Verdict.FAILED
    assert "internals" not in meter.reason


def test_an_error_about_the_request_is_shown() -> None:
    refusal = event({"error": {"message": "too long", "code": 400}})
    meter = StreamMeter(drop_usage=True)
    assert fed(meter, refusal, DONE) == refusal
    assert meter.verdict is Verdict.REFUSED


def test_nothing_passes_after_a_verdict() -> None:
    meter = StreamMeter(drop_usage=True)
    fed(meter, WHOLE)
    assert meter.feed(token("late")) == b""


def test_an_endless_event_is_not_held_for_ever() -> None:
    meter = StreamMeter(drop_usage=True)
    piece = b"data: " + b"x" * (MAX_EVENT_BYTES + 1)
    assert meter.feed(piece) == piece


def test_what_is_no_json_passes() -> None:
    meter = StreamMeter(drop_usage=True)
    odd = b'data: "usage" {\n\n'
    assert meter.feed(odd) == odd


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": -5, "completion_tokens": -1}, Usage(0, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(5, 0, 5)),
        ({"prompt_tokens": 5, "prompt_tokens_details": None}, Usage(5, 0)),
    ],
)
def test_counts_that_make_no_sense_do_no_harm(usage: dict[str, object], expected: Usage) -> None:
    meter = StreamMeter(drop_usage=True)
    meter.feed(event({"choices": [], "usage": usage}))
    assert meter.usage == expected
