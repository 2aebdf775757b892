"""Conversations of several turns through a gateway, and what it had predicted of each turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
import msgspec

from router.record import RecordedDecision

MODEL = "small"
LIMIT_S = 90.0
RULES = " ".join(f"Rule {number}: the gate {number} is opened by {number}." for number in range(8))
"""What all chats begin with."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: what the router predicted of the endpoint that it chose, and what came.

    Attributes:
        request_id: As given to the gateway.
        endpoint: Where it went.
        exact: Whether the prediction was told by events, for a prompt whose blocks are known.
        predicted_tokens: Cached tokens that the router expected there.
        cached_tokens: Those that the engine reported.
        counted_tokens: The prompt's length as the router counted it.
        prompt_tokens: The same as the engine reported it.

    """

    request_id: str
    endpoint: str
    exact: bool
    predicted_tokens: float
    cached_tokens: int
    counted_tokens: int
    prompt_tokens: int

    @property
    def equal(self) -> bool:
        """Whether the prediction was right, and not by chance."""
        return (
            self.exact
            and self.predicted_tokens == self.cached_tokens
            and self.counted_tokens == self.prompt_tokens
        )


class Talk:
    """One conversation; by its number a chat, a text or a list of tokens that grows, some streamed.

    What the model says is random and need not be valid text: a chat's next turn then has other
    tokens than were generated, and both sides must find that out.
    """

    def __init__(self, number: int, words: int) -> None:
        self.number = number
        self._rng = Random(number)
        self._words = words
        self._messages: list[dict[str, str]] = [{"role": "system", "content": RULES}]
        self._text = ""
        self._tokens: list[int] = []
        self._turns = 0

    async def turn(self, http: aiohttp.ClientSession, url: str) -> Turn:
        """Take the next turn, and look up what had been decided."""
        self._turns += 1
        request_id = f"talk-{self.number}-{self._turns}-{self._rng.getrandbits(32):x}"
        path, asked = self._asked()
        body = {
            "model": MODEL,
            "max_tokens": self._rng.randrange(4, 36),
            "temperature": 0,
            "ignore_eos": True,
            **asked,
        }
        if self._turns % 2:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"X-Request-Id": request_id}
        limit = aiohttp.ClientTimeout(total=LIMIT_S)
        async with http.post(url + path, json=body, headers=headers, timeout=limit) as reply:
            raw = await reply.read()
            assert reply.status == 200, raw
        said = _said(raw) if "stream" in body else _Said.of([msgspec.json.decode(raw)])
        self._answered(said)
        return _turn((await decisions(http, url, request_id))[-1], said)

    def _asked(self) -> tuple[str, dict[str, Any]]:
        kind = self.number % 3
        if kind == 2:
            self._tokens += [self._rng.randrange(300, 2_000) for _ in range(2 * self._words)]
            # Whole blocks, now and then: the last token is computed whatever is cached.
            self._tokens += [300] * (-len(self._tokens) % 32 if self._turns % 2 else 0)
            return "/v1/completions", {"prompt": self._tokens, "return_token_ids": True}
        words = " ".join(f"gate{self._rng.randrange(100)}" for _ in range(self._words // 2))
        text = f"In turn {self._turns} of talk {self.number}: {words}."
        if kind == 1:
            self._text += text
            return "/v1/completions", {"prompt": self._text}
        self._messages.append({"role": "user", "content": text})
        return "/v1/chat/completions", {"messages": self._messages}

    def _answered(self, said: _Said) -> None:
        self._messages.append({"role": "assistant", "content": said.text})
        self._text += said.text
        self._tokens += said.token_ids


@dataclass(slots=True)
class _Said:
    """A reply, whole or put together from its pieces."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, pieces: Iterable[dict[str, Any]]) -> _Said:
        said = cls()
        for piece in pieces:
            said.usage = piece.get("usage") or said.usage
            for choice in piece["choices"]:
                message = choice.get("delta") or choice.get("message") or {}
                said.text += choice.get("text") or message.get("content") or ""
                said.token_ids += choice.get("token_ids") or []
        return said


def _said(stream: bytes) -> _Said:
    lines = [line.removeprefix(b"data: ") for line in stream.split(b"\n\n") if line]
    assert lines[-1] == b"[DONE]", stream[-300:]
    return _Said.of(msgspec.json.decode(line) for line in lines[:-1])


async def decisions(
    http: aiohttp.ClientSession, url: str, request_id: str
) -> Sequence[RecordedDecision]:
    """Return what a gateway decided on a request."""
    async with http.get(f"{url}/headrace/v1/decisions/{request_id}") as reply:
        assert reply.status == 200
        answer = msgspec.json.decode(await reply.read())
    return msgspec.convert(answer["attempts"], list[RecordedDecision])


def _turn(decision: RecordedDecision, said: _Said) -> Turn:
    (chosen,) = [c for c in decision.candidates if c.endpoint_id == decision.endpoint_id]
    details = said.usage.get("prompt_tokens_details") or {}
    return Turn(
        request_id=decision.request_id,
        endpoint=decision.endpoint_id,
        exact=chosen.exact and bool(decision.request.engine_blocks),
        predicted_tokens=chosen.cached_tokens,
        cached_tokens=details.get("cached_tokens") or 0,
        counted_tokens=decision.request.facts["prompt_tokens"],
        prompt_tokens=said.usage["prompt_tokens"],
    )
