"""Meters a stream of server-sent events, and takes out what the client did not ask for. Pure.

Nearly every piece of a stream is one whole event with one token in it. A few substring searches say
so, and it passes as it came; only pieces that hold something else are taken apart.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

import msgspec

from headrace.core.record import Usage

MAX_EVENT_BYTES: Final = 1 << 20
"""Longest event held back to be looked at whole; a longer one passes unmetered."""

_GAP: Final = re.compile(rb"\r?\n\r?\n")
_DATA: Final = b"data:"
_DONE: Final = b"[DONE]"
_DELTA: Final = b'"delta":'
_REST: Final = b'},"'

_MARKER_BYTES: Final = len(b"finish_reason")
"""Longest of what is searched for between the known beginning and end of an event."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class UsageBody(msgspec.Struct):
    """``usage`` of a reply, or of the last chunk of a stream."""

    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None

    def usage(self) -> Usage:
        """Return it in our words; counts that make no sense count as none."""
        details = self.prompt_tokens_details
        prompt = max(0, self.prompt_tokens)
        cached = 0 if details is None else details.cached_tokens or 0
        return Usage(prompt, max(0, self.completion_tokens or 0), max(0, min(prompt, cached)))


class Choice(msgspec.Struct):
    """One choice, as far as we look at it."""

    finish_reason: str | None = None


class ErrorBody(msgspec.Struct):
    """``error`` of a reply; vLLM's ``code`` is the HTTP status."""

    message: str = ""
    code: int | str | None = None


class Chunk(msgspec.Struct):
    """A whole reply or one chunk of a stream, as far as we look at it."""

    choices: list[Choice] | None = None
    usage: UsageBody | None = None
    error: ErrorBody | str | None = None


CHUNK: Final = msgspec.json.Decoder(Chunk)


class Verdict(Enum):
    """What a stream has come to."""

    OPEN = auto()
    DONE = auto()
    FAILED = auto()
    REFUSED = auto()


class StreamMeter:
    """Sees every piece of one stream and says what to forward.

    Attributes:
        usage: What the engine reported, once it has.
        verdict: ``DONE`` after ``[DONE]`` with a finish reason before it. ``FAILED`` when the
            engine said so, gave up (``abort``), or ended without a finish reason: vLLM that is
            shutting down answers 200 with an empty stream. ``REFUSED`` when it blamed the request.
        reason: Why, when ``FAILED``.

    """

    __slots__ = (
        "_carry",
        "_drop_usage",
        "_finished",
        "_from",
        "_head",
        "_likeness",
        "_tail",
        "_to",
        "reason",
        "usage",
        "verdict",
    )

    def __init__(self, *, drop_usage: bool) -> None:
        self._drop_usage = drop_usage
        self._carry = b""
        self._finished = False
        self._head = self._tail = b""
        self._likeness = self._from = self._to = 0
        self.usage: Usage | None = None
        self.verdict = Verdict.OPEN
        self.reason = ""

    def feed(self, piece: bytes) -> bytes:
        """Take the next bytes from the engine; return the bytes that are for the client.

        Events are forwarded whole, and none after a verdict.
        """
        if self._passes(piece) and piece.endswith(b"\n\n"):
            return piece
        return self._look(piece)

    def passes_chunk(self, chunk: bytes, start: int) -> bool:
        """Take ``chunk[start:-2]``, and return whether it may be forwarded in its frame.

        If not, nothing was taken, and ``feed`` must be given what is in the frame.

        Events of a stream differ only in their token: one that begins and ends as another that
        passed has only to be searched in between, where a second event or choice would be.
        """
        if (
            self._likeness
            and len(chunk) >= start + self._likeness
            and chunk.startswith(self._head, start)
            and chunk.endswith(self._tail)
        ):
            token = chunk[start + self._from : self._to]
            if b"\n" not in token and b"finish_reason" not in token and b'"usage"' not in token:
                return not self._carry and self.verdict is Verdict.OPEN
        if not chunk.endswith(b"\n\n\r\n") or not self._passes(chunk):
            return False
        self._learn(chunk, start)
        return True

    def _learn(self, chunk: bytes, start: int) -> None:
        """Remember how an event that passed begins and ends, if it is one and has a delta."""
        delta, rest = chunk.find(_DELTA, start), chunk.rfind(_REST)
        if not start < delta < rest or chunk.find(b"\n", start) != len(chunk) - 4:
            return
        self._head, self._tail = chunk[start : delta + len(_DELTA)], chunk[rest:]
        self._likeness = len(self._head) + len(self._tail)
        # what is searched for may begin in the one and end in the other
        self._from = max(0, len(self._head) - _MARKER_BYTES)
        self._to = min(-1, _MARKER_BYTES - len(self._tail))

    def _passes(self, piece: bytes) -> bool:
        """Return whether ``piece`` holds nothing to meter, and nothing is held back before it."""
        return (
            b'"usage"' not in piece
            and b'finish_reason":"' not in piece
            and b'finish_reason": "' not in piece
            and b'data: {"error"' not in piece
            and _DONE not in piece
            and not self._carry
            and self.verdict is Verdict.OPEN
        )

    def ended(self) -> bytes:
        """Take note that no more will come; return what was held back."""
        rest = self._look(b"\n\n") if self._carry.strip() else b""
        if self.verdict is Verdict.OPEN:
            self._fail("the stream ended without [DONE]")
        return rest

    def _look(self, piece: bytes) -> bytes:
        data = self._carry + piece if self._carry else piece
        kept: list[bytes] = []
        at = 0
        for gap in _GAP.finditer(data):
            event = data[at : gap.end()]
            at = gap.end()
            if self.verdict is not Verdict.OPEN:
                break
            if self._keep(event):
                kept.append(event)
        self._carry = data[at:] if self.verdict is Verdict.OPEN else b""
        if len(self._carry) > MAX_EVENT_BYTES:
            kept.append(self._carry)
            self._carry = b""
        return b"".join(kept)

    def _keep(self, event: bytes) -> bool:
        """Take one whole event in and return whether the client should see it."""
        start = event.find(_DATA)
        if start < 0:
            return True  # a comment that keeps the connection warm
        payload = event[start + len(_DATA) :].strip()
        if payload == _DONE:
            return self._done()
        try:
            chunk = CHUNK.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True  # not ours to judge
        if chunk.error is not None:
            return self._error(chunk.error)
        if chunk.usage is not None:
            self.usage = chunk.usage.usage()
        for choice in chunk.choices or ():
            if choice.finish_reason == "abort":
                return self._fail("the engine aborted the request")
            if choice.finish_reason is not None:
                self._finished = True
        return not (self._drop_usage and chunk.usage is not None and not chunk.choices)

    def _done(self) -> bool:
        if not self._finished:
            return self._fail("the stream ended without a finish reason")
        self.verdict = Verdict.DONE
        return True

    def _error(self, error: ErrorBody | str) -> bool:
        code = error.code if isinstance(error, ErrorBody) else None
        if isinstance(code, int) and 400 <= code < 500:
            self.verdict = Verdict.REFUSED
            return True
        return self._fail("the engine reported an error")

    def _fail(self, reason: str) -> bool:
        self.verdict = Verdict.FAILED
        self.reason = reason
        return False
