"""What was really said in the conversations of a replay, so that it can be sent back. Pure.

A later turn of a workload with sessions holds the answer to the turn before. The engine that gave
that answer has its blocks cached, but only a prompt with the very same text finds them.
"""

from __future__ import annotations

from collections import OrderedDict

import orjson

from headrace.simulator.trace import TraceRequest
from headrace.twin.prompts import BYTES_PER_TOKEN


class Conversations:
    """The text of each session so far, prompt and answer, for the latest ``limit`` sessions."""

    def __init__(self, limit: int = 1024) -> None:
        self._said: OrderedDict[str, bytes] = OrderedDict()
        self._limit = limit

    def wanted(self, request: TraceRequest) -> bool:
        """Return whether a later turn may send the answer to ``request`` back."""
        return request.session is not None and bool(request.output_hash_ids)

    def prompt(self, request: TraceRequest, text: bytes) -> bytes:
        """Return ``text`` with its beginning replaced by what was said in its session so far.

        Unchanged for a first turn, and for one that comes before the answer it would send back.
        """
        said = self._said.get(request.session or "")
        if said is None or len(said) > len(text):
            return text
        return said + text[len(said) :]

    def answered(self, request: TraceRequest, prompt: bytes, stream: bytes) -> None:
        """Note the answer to ``request``, unless its text is not all there or needs escaping."""
        answer = streamed_text(stream)
        if len(answer) != request.output_tokens * BYTES_PER_TOKEN or not _is_plain(answer):
            return
        assert request.session is not None
        self._said[request.session] = prompt + answer
        self._said.move_to_end(request.session)
        while len(self._said) > self._limit:
            self._said.popitem(last=False)


def streamed_text(stream: bytes) -> bytes:
    """Return the text that the events of a stream of completions or chat chunks carry."""
    parts: list[str] = []
    for line in stream.split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        try:
            choices = orjson.loads(line[6:])["choices"]
            choice = choices[0] if choices else {}
        except (orjson.JSONDecodeError, LookupError, TypeError):
            continue
        parts.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
    return "".join(parts).encode()


def _is_plain(text: bytes) -> bool:
    """Return whether ``text`` can stand in a JSON string as it is."""
    return text.isascii() and orjson.dumps(text.decode()) == b'"%b"' % text
