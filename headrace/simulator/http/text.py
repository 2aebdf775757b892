"""Text and tokens of the simulated engine: a token is 4 bytes of UTF-8. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import shake_128
from typing import Final

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

TokenArray = NDArray[np.uint32]

TOKEN_BYTES: Final = 4
VOCAB: Final = 1 << 31
"""Token ids are below this: the little-endian integer of a token's bytes, modulo it."""

_POOL_WORDS: Final = 1 << 16
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyzaeiourst"  # 34, vowels twice: reads less like noise
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def pad(text: bytes) -> bytes:
    """Return ``text`` filled up to whole tokens with NUL bytes."""
    return text + _PADDING[len(text) % TOKEN_BYTES]


def encode(text: bytes) -> TokenArray:
    """Return the tokens of UTF-8 ``text``; the last one is padded."""
    raw = np.frombuffer(pad(text), dtype="<u4")
    return (raw & np.uint32(VOCAB - 1)).astype(np.uint32, copy=False)


def decode(token_ids: Sequence[int] | TokenArray) -> str:
    """Return the text of tokens below ``VOCAB``; what is not UTF-8 becomes U+FFFD.

    The inverse of ``encode`` for text whose every fourth byte is ASCII; padding is removed.
    """
    raw = np.asarray(token_ids, dtype="<u4").tobytes()
    return raw.replace(b"\0", b"").decode("utf-8", "replace")


def utf8(text: str) -> bytes:
    """Return ``text`` as UTF-8; a lone surrogate, which JSON may carry, becomes ``?``."""
    return text.encode("utf-8", "replace")


def chat_prompt(
    turns: Iterable[tuple[str, bytes]], *, tools: bytes = b"", generate: bool = True
) -> bytes:
    """Return the prompt of a conversation: the simulated engine's chat template.

    Every header and every content is padded to whole tokens. That is what lets a conversation
    that sends an answer back share the blocks that generating it filled.

    Args:
        turns: Role and content, oldest first.
        tools: JSON of the tools offered, or nothing.
        generate: Whether to open the assistant's turn.

    """
    parts: list[bytes] = []
    if tools:
        parts += (pad(b"<|tools|>"), pad(tools))
    for role, content in turns:
        parts += (pad(b"<|%b|>" % utf8(role)), pad(content))
    if generate:
        parts.append(pad(b"<|assistant|>"))
    return b"".join(parts)


def _make_pool() -> bytes:
    draws = np.frombuffer(shake_128(b"headrace words").digest(3 * _POOL_WORDS), dtype=np.uint8)
    letters = np.frombuffer(_LETTERS, dtype=np.uint8)[draws % len(_LETTERS)]
    words = np.full((_POOL_WORDS, TOKEN_BYTES), ord(" "), dtype=np.uint8)
    words[:, 1:] = letters.reshape(_POOL_WORDS, 3)
    return words.tobytes()


_POOL: Final = _make_pool()


@dataclass(frozen=True, slots=True)
class Generated:
    """The endless text that one (prompt, seed, choice) leads to: words of 4 ASCII bytes.

    Attributes:
        start: Where in the pool of words it begins.
        chance: In [0, 1), drawn beside it; decides where the text would end by itself.

    """

    start: int
    chance: float

    @staticmethod
    def after(prompt: TokenArray, seed: int, choice: int) -> Generated:
        """Return what follows ``prompt``: the same for the same arguments, on any machine."""
        mixed = xxh3_64_intdigest(prompt.tobytes(), seed=(seed * 1_000_003 + choice) % (1 << 64))
        return Generated(mixed % _POOL_WORDS, (mixed >> 32) / (1 << 32))

    def text(self, tokens: int) -> bytes:
        """Return the first ``tokens`` tokens as ASCII."""
        first = self.start * TOKEN_BYTES
        length = tokens * TOKEN_BYTES
        if first + length <= len(_POOL):
            return _POOL[first : first + length]
        rounds = (first + length) // len(_POOL) + 1
        return (_POOL * rounds)[first : first + length]
