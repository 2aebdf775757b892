"""Answers to chat and completions, whole or streamed, as vLLM writes them.

Writes to the client through the exchange; the host calls ``emit`` and ``end``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from headrace.simulator.http import shapes
from headrace.simulator.http.exchange import Exchange
from headrace.simulator.http.generation import Generation
from headrace.simulator.http.prepare import Job
from headrace.simulator.http.text import TOKEN_BYTES

_MARK: Final = "@@@@"
_DONE: Final = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Cut:
    """A stream that a fault breaks: after how many tokens, and how."""

    after_tokens: int
    how: str


class WholeReply:
    """Collects the choices of one request and answers when the last has ended."""

    def __init__(self, job: Job, envelope: shapes.Envelope, exchange: Exchange) -> None:
        self._job = job
        self._envelope = envelope
        self._exchange = exchange
        self._left = len(job.generations)
        self._cached = [0] * len(job.generations)
        for index, generation in enumerate(job.generations):
            generation.end = self._ender(index)

    def _ender(self, index: int) -> Callable[[int], None]:
        def end(cached_tokens: int) -> None:
            self._cached[index] = cached_tokens
            self._left -= 1
            if self._left == 0:
                self._answer()

        return end

    def _answer(self) -> None:
        job = self._job
        choices = [
            shapes.whole_choice(job, index, generation)
            for index, generation in enumerate(job.generations)
        ]
        body = self._envelope.body(choices, whole=True)
        output = sum(generation.ending.output_tokens for generation in job.generations)
        body["usage"] = shapes.usage(job, output, self._cached)
        body["system_fingerprint"] = None
        body["kv_transfer_params"] = shapes.handed_over(job) if job.hand_over else None
        if job.sampling.return_token_ids and job.chat:
            body["prompt_token_ids"] = job.generations[0].prompt.ids.tolist()
        self._exchange.reply(200, orjson.dumps(body))


class StreamReply:
    """Streams the choices of one request.

    Starts the stream at once, before there is a token, as vLLM does; so a client has its status
    and headers while the request still waits.
    """

    def __init__(
        self, job: Job, envelope: shapes.Envelope, exchange: Exchange, cut: Cut | None
    ) -> None:
        self.job = job
        self.envelope = envelope
        self.exchange = exchange
        self.cut = cut
        self.plain = not (
            job.logprobs is not None
            or job.continuous_usage
            or job.call is not None
            or job.sampling.return_token_ids
        )
        self._left = len(job.generations)
        self._cached = [0] * len(job.generations)
        exchange.start_stream()
        for index, generation in enumerate(job.generations):
            _StreamedChoice(self, index, generation)

    def event(self, choice: dict[str, Any], *, tokens: int) -> bytes:
        """Return the framed event of one choice's chunk; ``tokens`` were sent so far by it."""
        body = self.envelope.body([choice], whole=False)
        if self.job.continuous_usage:
            body["usage"] = shapes.usage(self.job, tokens, self._cached)
        return self.framed(b"data: %b\n\n" % orjson.dumps(body))

    def framed(self, data: bytes) -> bytes:
        """Return ``data`` as one chunk of the stream."""
        before, after = self.exchange.frame(len(data))
        return before + data + after

    def cut_now(self) -> None:
        """Break the stream as the fault says; the engine drops the request."""
        assert self.cut is not None
        if self.cut.how == "reset":
            self.exchange.cut()
            return
        if self.exchange.on_gone is not None:
            self.exchange.on_gone()
        self.exchange.write(self.framed(_DONE))
        self.exchange.end_stream()

    def choice_ended(self, index: int, cached_tokens: int, last: bytes) -> None:
        """Send a choice's last chunk, and the end of the stream after the last of them."""
        self._cached[index] = cached_tokens
        self._left -= 1
        if self._left:
            self.exchange.write(last)
            return
        parts = [last]
        if self.job.include_usage:
            body = self.envelope.body([], whole=False)
            output = sum(g.ending.output_tokens for g in self.job.generations)
            body["usage"] = shapes.usage(self.job, output, self._cached)
            parts.append(self.framed(b"data: %b\n\n" % orjson.dumps(body)))
        parts.append(self.framed(_DONE))
        self.exchange.write(b"".join(parts))
        self.exchange.end_stream()


class _StreamedChoice:
    """One choice of a stream; ``emit`` is what a token costs.

    Between the first token and the last, a chunk is the same bytes around 4 others: those around
    are made once. ``plain_until`` is the byte of the text up to which that holds.
    """

    __slots__ = ("_after", "_at", "_before", "_generation", "_index", "_plain_until", "_reply")

    def __init__(self, reply: StreamReply, index: int, generation: Generation) -> None:
        self._reply = reply
        self._index = index
        self._generation = generation
        self._at = 0
        self._plain_until = 0
        self._before = self._after = b""
        generation.emit = self.emit
        generation.end = self.end

    def emit(self) -> None:
        """Send the next token, which is not the last."""
        at = self._at
        if at < self._plain_until:
            self._at = end = at + TOKEN_BYTES
            self._reply.exchange.write(
                b"".join((self._before, self._generation.text[at:end], self._after))
            )
            return
        self._special(at)

    def _special(self, at: int) -> None:
        reply = self._reply
        cut = reply.cut
        if cut is not None and at >= cut.after_tokens * TOKEN_BYTES:
            reply.cut_now()
            return
        self._at = at + TOKEN_BYTES
        chunk = self._content(at, None)
        reply.exchange.write((self._opening() if at == 0 else b"") + chunk)
        if at == 0 and reply.plain:
            self._make_plain()

    def _make_plain(self) -> None:
        """Prepare the bytes around a token, for all tokens that fit between."""
        reply = self._reply
        choice = shapes.text_chunk(reply.job, self._index, _MARK)
        data = b"data: %b\n\n" % orjson.dumps(reply.envelope.body([choice], whole=False))
        left, _, right = data.rpartition(_MARK.encode())
        before, after = reply.exchange.frame(len(data))
        self._before, self._after = before + left, right + after
        until = self._generation.ending.text_bytes - TOKEN_BYTES + 1
        if reply.cut is not None:
            until = min(until, reply.cut.after_tokens * TOKEN_BYTES)
        # JSON would escape quotes and backslashes, and a chunk would no longer be as long as told.
        text = self._generation.text
        self._plain_until = 0 if b'"' in text or b"\\" in text else until

    def _opening(self) -> bytes:
        """Return what stands before the first token: a chat's role, a completion's echo."""
        reply = self._reply
        if reply.job.chat:
            return reply.event(shapes.role_chunk(reply.job, self._index), tokens=0)
        if reply.job.echoes:
            text = reply.job.echoes[self._index]
            return reply.event(shapes.text_chunk(reply.job, self._index, text), tokens=0)
        return b""

    def _content(self, at: int, finish_reason: str | None) -> bytes:
        choice = shapes.chunk(self._reply.job, self._index, self._generation, at, finish_reason)
        return self._reply.event(choice, tokens=at // TOKEN_BYTES + 1)

    def end(self, cached_tokens: int) -> None:
        """Send the last token and the reason."""
        reply, at = self._reply, self._at
        cut = reply.cut
        if cut is not None and at >= cut.after_tokens * TOKEN_BYTES:
            reply.cut_now()
            return
        reason = shapes.finish_reason(reply.job, self._generation)
        last = self._content(at, reason)
        reply.choice_ended(self._index, cached_tokens, (self._opening() if at == 0 else b"") + last)
