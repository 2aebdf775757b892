from __future__ import annotations

import orjson

from headrace.simulator.trace import TraceRequest
from headrace.twin.conversations import Conversations, streamed_text


def turn(session: str | None, prompt_tokens: int, output_tokens: int = 2) -> TraceRequest:
    return TraceRequest(0.0, prompt_tokens, output_tokens, (1,), 16, (2,), session)


def stream(*texts: str) -> bytes:
    events = [orjson.dumps({"choices": [{"text": text}], "usage": None}) for text in texts]
    return b"".join(b"data: %b\n\n" % event for event in events) + b"data: [DONE]\n\n"


def test_a_later_turn_begins_with_what_was_said() -> None:
    talk = Conversations()
    talk.answered(turn("a", 2), b"8 bytes ", stream("abcd", "efgh"))
    assert talk.prompt(turn("a", 5), b"x" * 20) == b"8 bytes abcdefghxxxx"


def test_other_sessions_and_requests_without_one_are_left_alone() -> None:
    talk = Conversations()
    talk.answered(turn("a", 2), b"8 bytes ", stream("abcd", "efgh"))
    assert talk.prompt(turn("b", 5), b"x" * 20) == b"x" * 20
    assert talk.prompt(turn(None, 5), b"x" * 20) == b"x" * 20
    assert not talk.wanted(turn(None, 5))
    assert talk.wanted(turn("a", 5))


def test_an_answer_of_another_length_or_that_needs_escaping_is_not_sent_back() -> None:
    for texts in (("abcd",), ("abcd", 'ef"h'), ("abcd", "ef\nh"), ("abcd", "é__")):
        talk = Conversations()
        talk.answered(turn("a", 2), b"8 bytes ", stream(*texts))
        assert talk.prompt(turn("a", 5), b"x" * 20) == b"x" * 20


def test_only_the_latest_sessions_are_kept() -> None:
    talk = Conversations(limit=2)
    for session in ("a", "b", "c"):
        talk.answered(turn(session, 2), b"8 bytes ", stream("abcd", "efgh"))
    kept = [talk.prompt(turn(s, 5), b"x" * 20) != b"x" * 20 for s in ("a", "b", "c")]
    assert kept == [False, True, True]


def test_text_is_found_in_chat_chunks_too_and_what_is_no_chunk_is_skipped() -> None:
    body = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    body += b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: {"cut\n\n'
    body += b'data: {"choices":[],"usage":{}}\n\ndata: [DONE]\n\n'
    assert streamed_text(body) == b"hi"
