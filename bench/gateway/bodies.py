"""The request bodies that the load is made of: conversations that share prefixes. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any, Final

MODEL: Final = "bench-model"
SYSTEM_PROMPTS: Final = 8
TURNS_KEPT: Final = 4
"""Turns of one conversation in the pool; each repeats those before it and adds one."""

LONG_PROMPT_CHARS: Final = 400_000
"""100k tokens at four characters each."""


def vocabulary(rng: Random) -> list[str]:
    """Return words that no compressor or tree finds easy."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(4_000)]


def text(rng: Random, words: list[str], chars: int) -> str:
    """Return about a sentence or a page, exactly ``chars`` long."""
    return " ".join(rng.choices(words, k=chars))[:chars]


def conversations(seed: int, count: int, *, stream: bool) -> Iterator[str]:
    """Yield ``count`` chat bodies of about 2 kB on average.

    Eight system prompts are shared by all; a conversation comes back with one more turn each time,
    so that a prefix-aware router has something to find.
    """
    rng = Random(seed)
    words = vocabulary(rng)
    systems = [text(rng, words, 600) for _ in range(SYSTEM_PROMPTS)]
    for _ in range(count // TURNS_KEPT):
        messages: list[dict[str, str]] = [{"role": "system", "content": rng.choice(systems)}]
        for _ in range(TURNS_KEPT):
            messages.append({"role": "user", "content": text(rng, words, rng.randint(60, 500))})
            yield body(messages, stream=stream)
            messages.append({"role": "assistant", "content": text(rng, words, 400)})


def long_prompts(seed: int, count: int) -> Iterator[str]:
    """Yield bodies of 100k tokens that share their first half."""
    rng = Random(seed)
    words = vocabulary(rng)
    half = text(rng, words, LONG_PROMPT_CHARS // 2)
    for _ in range(count):
        content = half + text(rng, words, LONG_PROMPT_CHARS // 2)
        yield body([{"role": "user", "content": content}], stream=False)


def body(messages: list[dict[str, str]], *, stream: bool) -> str:
    """Return one body as the OpenAI client would send it, on one line."""
    fields: dict[str, Any] = {"messages": messages, "model": MODEL, "max_tokens": 64}
    if stream:
        fields["stream"] = True
    return json.dumps({**fields, "temperature": 0.7}, ensure_ascii=False, separators=(",", ":"))
