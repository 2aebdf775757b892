"""Conversations as chat messages: every turn sends back all that was said before. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from bench.routing_real.workload import system_tokens
from headrace.simulator.trace import TraceRequest
from headrace.twin.conversations import streamed_text
from headrace.twin.prompts import BYTES_PER_TOKEN

MAX_SESSIONS: Final = 4096
"""Conversations remembered; one of which more turns come after that is asked anew."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``content`` is ASCII that JSON needs not escape."""

    role: str
    content: bytes


class Talks:
    """What was said in each session so far: its messages, the last an assistant's."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._said: OrderedDict[str, tuple[Message, ...]] = OrderedDict()
        self._limit = limit

    def messages(self, request: TraceRequest, text: bytes) -> tuple[Message, ...]:
        """Return a turn's messages.

        Args:
            request: Whose session it is, and how much of its prompt is a system prompt.
            text: The whole prompt as the workload has it. What was really said takes the place
                of its beginning; the rest is what the user says now.

        """
        said = self._said.get(request.session or "", ())
        length = sum(len(message.content) for message in said)
        if not said or length >= len(text):
            length = system_tokens(request) * BYTES_PER_TOKEN
            said = (Message("system", text[:length]),) if length else ()
        if length == len(text):
            return said
        return (*said, Message("user", text[length:]))

    def answered(self, request: TraceRequest, messages: tuple[Message, ...], stream: bytes) -> None:
        """Note the answer to a turn, unless its text is not all there or needs escaping."""
        answer = streamed_text(stream)
        if request.session is None or len(answer) != request.output_tokens * BYTES_PER_TOKEN:
            return
        if orjson.dumps(answer.decode()) != b'"%b"' % answer:
            return
        self._said[request.session] = (*messages, Message("assistant", answer))
        self._said.move_to_end(request.session)
        while len(self._said) > self._limit:
            self._said.popitem(last=False)


def chat_body(model: str, messages: Sequence[Message], output_tokens: int) -> bytes:
    """Return the JSON body that asks for a stream of exactly ``output_tokens`` with its usage.

    Spliced, as ``headrace.twin.replay`` does: it runs on the schedule.
    """
    said = b",".join(
        b'{"role":"%b","content":"%b"}' % (message.role.encode(), message.content)
        for message in messages
    )
    options = {
        "max_tokens": output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    return b'{"model":%b,"messages":[%b],%b' % (
        orjson.dumps(model),
        said,
        orjson.dumps(options)[1:],
    )
