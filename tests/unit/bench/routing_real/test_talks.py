from __future__ import annotations

import orjson

from bench.routing_real.talks import Message, Talks, chat_body
from headrace.simulator.trace import TraceRequest

SYSTEM = b" abc" * 1024
ASKED = b" def" * 10
ANSWER = b" ghi" * 5


def turn(
    prompt_tokens: int, output_tokens: int = 5, session: str = "conversation-1"
) -> TraceRequest:
    return TraceRequest(0.0, prompt_tokens, output_tokens, session=session)


def stream(*pieces: bytes) -> bytes:
    events = [{"choices": [{"delta": {"content": piece.decode()}}]} for piece in pieces]
    return b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events) + b"data: [DONE]\n\n"


def test_a_first_turn_is_a_system_prompt_and_what_the_user_says() -> None:
    messages = Talks().messages(turn(1034), SYSTEM + ASKED)
    assert messages == (Message("system", SYSTEM), Message("user", ASKED))


def test_a_later_turn_sends_back_the_answer_that_really_came() -> None:
    talks = Talks()
    first = talks.messages(turn(1034), SYSTEM + ASKED)
    talks.answered(turn(1034), first, stream(ANSWER[:8], ANSWER[8:]))
    presumed = SYSTEM + ASKED + b" xxx" * 5 + b" jkl" * 3
    second = talks.messages(turn(1042), presumed)
    assert second == (*first, Message("assistant", ANSWER), Message("user", b" jkl" * 3))


def test_an_answer_that_is_cut_short_is_not_sent_back() -> None:
    talks = Talks()
    first = talks.messages(turn(1034), SYSTEM + ASKED)
    talks.answered(turn(1034), first, stream(ANSWER[:8]))
    second = talks.messages(turn(1042), SYSTEM + ASKED * 2)
    assert second == (Message("system", SYSTEM), Message("user", ASKED * 2))


def test_an_answer_that_json_would_escape_is_not_sent_back() -> None:
    talks = Talks()
    first = talks.messages(turn(1034), SYSTEM + ASKED)
    talks.answered(turn(1034), first, stream(b' "g"' * 5))
    assert len(talks.messages(turn(1042), SYSTEM + ASKED * 2)) == 2


def test_only_so_many_sessions_are_remembered_the_latest_ones() -> None:
    talks = Talks(limit=1)
    for session in ("conversation-1", "conversation-2"):
        request = turn(1034, session=session)
        first = talks.messages(request, SYSTEM + ASKED)
        talks.answered(request, first, stream(ANSWER))
    text = SYSTEM + ASKED * 3
    assert len(talks.messages(turn(1054, session="conversation-1"), text)) == 2
    assert len(talks.messages(turn(1054, session="conversation-2"), text)) == 4


def test_a_prompt_that_is_all_system_prompt_has_no_empty_message() -> None:
    assert Talks().messages(turn(1024), SYSTEM) == (Message("system", SYSTEM),)


def test_the_body_is_json_that_asks_for_a_stream_of_that_length_with_its_usage() -> None:
    body = orjson.loads(chat_body("m", (Message("system", b"a"), Message("user", b"b")), 7))
    assert body["model"] == "m"
    assert body["messages"] == [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    assert body["max_tokens"] == 7
    assert body["stream"] is True
    assert body["ignore_eos"] is True
    assert body["stream_options"] == {"include_usage": True}
