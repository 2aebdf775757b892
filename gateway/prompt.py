"""Prompts as routing sees them: canonical bytes, cut into blocks, hashed in a chain. Pure."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from xxhash import xxh3_64_intdigest

from headrace.core.ids import BlockHash, ModelName

BLOCK_BYTES: Final = 256
"""Bytes per routing block: about 64 tokens, four of vLLM's default blocks. Smaller blocks tell
prefixes apart a little better and cost more to hash and look up."""

TOKEN_BYTES: Final = 4
"""Bytes per token presumed until engines report their counts; exact for token ids, by their form.

Source: English text under byte-level BPE vocabularies of 100k entries is 4 to 5 bytes per token.
"""

_SEPARATOR: Final = "\x1e"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What routing needs of a prompt.

    Attributes:
        length_bytes: Length of the canonical form, of all prompts of a batch.
        exact_tokens: Length in tokens where the client sent token ids, else None.
        blocks: Chained hashes of the full blocks, first block first, of the first prompt.

    """

    length_bytes: int
    exact_tokens: int | None
    blocks: tuple[BlockHash, ...]


def chat_prompt(head: str, parts: Sequence[str], model: str, salt: str | None) -> Prompt:
    """Make the prompt of a conversation.

    Appending a message only appends bytes, so a longer conversation shares the blocks of the
    shorter one it grew from. The separators keep ("ab", "c") apart from ("a", "bc").

    Args:
        head: What the chat template puts first (the tools), or empty.
        parts: Roles and contents in order.
        model: Name asked for; models and adapters never share a block.
        salt: The client's cache salt; other salts never share a block.

    """
    return _hashed(_utf8(f"{head}{_SEPARATOR}{_SEPARATOR.join(parts)}"), model, salt)


def text_prompt(text: str, model: str, salt: str | None, *, more_chars: int = 0) -> Prompt:
    """Make the prompt of a text; ``more_chars`` is the length of a batch's other texts."""
    return _hashed(_utf8(text), model, salt, more_bytes=more_chars)


def ids_prompt(ids: Sequence[int], model: str, salt: str | None, *, more_tokens: int = 0) -> Prompt:
    """Make the prompt of token ids; ``more_tokens`` is the length of a batch's other prompts.

    Raises:
        OverflowError: if an id does not fit 32 bits without sign.

    """
    data = array("I", ids).tobytes()
    more_bytes = more_tokens * TOKEN_BYTES
    return _hashed(data, model, salt, more_bytes=more_bytes, exact=len(ids) + more_tokens)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _hashed(
    data: bytes, model: str, salt: str | None, *, more_bytes: int = 0, exact: int | None = None
) -> Prompt:
    digest = xxh3_64_intdigest
    link = digest(_utf8(model) if salt is None else _utf8(f"{model}{_SEPARATOR}{salt}"))
    size = len(data)
    blocks = [
        link := digest(data[at : at + BLOCK_BYTES], link)
        for at in range(0, size - BLOCK_BYTES + 1, BLOCK_BYTES)
    ]
    return Prompt(size + more_bytes, exact, cast("tuple[BlockHash, ...]", tuple(blocks)))


class TokenRates:
    """Tokens per byte of each model's prompts, learned from what engines report. One owner.

    An exponentially weighted mean; at most ``limit`` models are remembered, the least recently
    updated forgotten first.
    """

    WEIGHT = 0.1
    """Weight of one report: ten requests settle it, one odd prompt does not upset it."""

    MIN_BYTES = 64
    """Prompts shorter than this are mostly template, and teach nothing."""

    LOWEST, HIGHEST = 0.05, 2.0
    """Rates outside this range are taken for a fault of the report."""

    def __init__(self, limit: int = 1_024) -> None:
        self._limit = limit
        self._rates: OrderedDict[ModelName, float] = OrderedDict()

    def tokens_per_byte(self, model: ModelName) -> float:
        """Return the rate to presume for ``model``."""
        return self._rates.get(model, 1.0 / TOKEN_BYTES)

    def learn(self, model: ModelName, prompt: Prompt, prompt_tokens: int) -> None:
        """Take in what an engine reported for a text prompt."""
        if prompt.exact_tokens is not None or prompt.length_bytes < self.MIN_BYTES:
            return
        rate = prompt_tokens / prompt.length_bytes
        if not self.LOWEST <= rate <= self.HIGHEST:
            return
        old = self._rates.pop(model, 1.0 / TOKEN_BYTES)
        self._rates[model] = old + self.WEIGHT * (rate - old)
        if len(self._rates) > self._limit:
            self._rates.popitem(last=False)
