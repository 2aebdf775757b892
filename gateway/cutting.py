"""Where a text can be cut so that its parts, tokenised alone, give the tokens of the whole. Pure.

Needs tokenizers (extra ``tokenizers``).

A tokenizer first splits a text at its special tokens, leftmost and then longest; each part it
normalises, splits into words, and merges within words only. So two kinds of places are safe: behind
a special token, and, where words are told apart by a known kind of rule, between two of them.

Source: tokenizers 0.23, ``AddedVocabulary::extract_and_normalize`` and ``PreTokenizedString``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

PIECE_CHARS: Final = 512
"""A piece that ends with a special token is at least this long: keeping one costs about what
tokenising 20 characters does."""

WORDS_CHARS: Final = 2_048
"""A piece that ends with a word is at least this long."""

MAX_ENDS: Final = 32
"""Special tokens looked for to cut a text; those of the chat template come first."""

_BETWEEN_WORDS: Final = re.compile(r"[a-z](?= [a-z])")
"""Behind it a word ends by any rule: lower case ASCII, one space, and lower case again."""

_STARTS: Final = (
    *("a", " a", "\n", " \n", "A1", "1", "'s", ".", "\u00e9", "\u4e2d", "  ", "a b", " the "),
)
"""What may stand behind a special token; each is tried."""

_WORDS: Final = (
    *(
        "a",
        "don't",
        "\u00e9t\u00e9 no",
        "x1 y",
        "\n\nz",
        "1,000s",
        "a_b",
        "\u4e2dx",
        "A.B.c",
        "the",
    ),
)
"""What may stand before and behind a place between words; each is tried with each."""

_RIGHTS: Final = tuple(f" {word}" for word in _WORDS if _BETWEEN_WORDS.match(f"a {word}"))

_FORMS: Final = frozenset({"NFC", "NFKC", "NFD", "NFKD"})
"""Normalisers that change nothing across a space: Unicode's normal forms."""

Encode = Callable[[Sequence[str]], list[list[int]]]


class Cutter:
    """Cuts texts for one tokenizer.

    Args:
        tokenizer: The tokenizer.
        spec: Its ``tokenizer.json``.
        sources: Chat templates; the special tokens that they name are the first ones looked for.
        encode: Returns the tokens of texts.

    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        spec: Mapping[str, Any],
        sources: Sequence[str],
        encode: Encode,
        *,
        piece_chars: int = PIECE_CHARS,
        words_chars: int = WORDS_CHARS,
    ) -> None:
        added = [token for token in tokenizer.get_added_tokens_decoder().values() if token.content]
        ends = [text for text in _ends(added, sources) if _adds_up(encode, f" x{text}", _STARTS)]
        self._ends = re.compile("|".join(map(re.escape, ends))) if ends else None
        self._words = (
            _leaves_words_alone(added)
            and _splits_words(tokenizer, spec)
            and all(_adds_up(encode, word, _RIGHTS) for word in _WORDS)
        )
        self._piece_chars = piece_chars
        self._words_chars = words_chars

    def pieces(self, text: str) -> list[str]:
        """Return the parts of a text.

        Those of a longer text begin with those of any text it grew from, but for the last, which
        may have been cut short by the end. A text without a place to cut is one piece.
        """
        start = 0
        pieces: list[str] = []
        for cut in self._places(text):
            pieces.append(text[start:cut])
            start = cut
        if start < len(text) or not pieces:
            pieces.append(text[start:])
        return pieces

    def _places(self, text: str) -> Iterator[int]:
        start = end = word = 0
        while len(text) - start > self._piece_chars:
            # what was found stays the next one while it is far enough: texts are gone through once
            if end - start < self._piece_chars:
                end = self._next_end(text, start)
            if word - start < self._words_chars:
                word = self._next_word(text, start)
            start = min(end, word)
            if start >= len(text):
                return
            yield start

    def _next_end(self, text: str, start: int) -> int:
        """Return where the first special token ends that is far enough from ``start``."""
        if self._ends is None:
            return len(text)
        for found in self._ends.finditer(text, start):
            if found.end() - start >= self._piece_chars:
                return found.end()
        return len(text)

    def _next_word(self, text: str, start: int) -> int:
        if not self._words:
            return len(text)
        found = _BETWEEN_WORDS.search(text, start + self._words_chars)
        return len(text) if found is None else found.end()


def _adds_up(encode: Encode, left: str, rights: Sequence[str]) -> bool:
    """Whether cutting behind ``left`` changes no token, whichever of ``rights`` follows."""
    parts = encode([left, *rights, *(left + right for right in rights)])
    wholes = parts[1 + len(rights) :]
    return all(
        parts[0] + right == whole
        for right, whole in zip(parts[1 : 1 + len(rights)], wholes, strict=True)
    )


def _ends(added: Sequence[AddedToken], sources: Sequence[str]) -> list[str]:
    """Return special tokens behind which a text can be cut, by their flags and spelling.

    Wherever one of these is spelled it is also found: none other holds it, ends as it begins, or
    takes spaces along that are its.
    """
    first = [token for token in added if not token.normalized]
    if any(token.single_word for token in first):
        return []
    every = "".join(f"{token.content}\0" for token in first)
    plain = [token.content for token in first if not (token.lstrip or token.rstrip)]
    plain.sort(key=lambda text: not any(text in source for source in sources))
    return [
        text
        for text in plain[:MAX_ENDS]
        if not text[0].isspace()
        and every.count(text) == 1
        and not any(f"{text[:size]}\0" in every for size in range(1, len(text)))
    ]


def _leaves_words_alone(added: Sequence[AddedToken]) -> bool:
    """Whether no added token reaches across a place between words, or takes its space."""
    return not any(
        _BETWEEN_WORDS.search(unicodedata.normalize("NFKC", token.content))
        or token.single_word
        or (token.rstrip and token.content[-1].isalpha())
        or (token.lstrip and token.content[0].isalpha())
        for token in added
    )


def _splits_words(tokenizer: Tokenizer, spec: Mapping[str, Any]) -> bool:
    """Whether words are told apart by a pattern that looks no further than at spaces.

    True of byte-level BPE as GPT-2, Llama 3, Qwen and DeepSeek have it. A pattern is tried out on
    words of every kind; one that looks back could tell where a part begins.
    """
    rules = list(_leaves(spec.get("pre_tokenizer"), "pretokenizers"))
    if (
        (spec.get("model") or {}).get("type") != "BPE"
        or any(
            rule.get("type") not in _FORMS
            for rule in _leaves(spec.get("normalizer"), "normalizers")
        )
        or not rules
        or not all(map(_is_plain, rules))
        or not any(rule["type"] == "Split" or rule.get("use_regex", True) for rule in rules)
    ):
        return False
    splitter = tokenizer.pre_tokenizer
    assert splitter is not None
    for left in _WORDS:
        for right in _RIGHTS:
            text = f"{left}{right}"
            ends = {end for _, (_, end) in splitter.pre_tokenize_str(text)}
            if not {found.end() for found in _BETWEEN_WORDS.finditer(text)} <= ends:
                return False
    return True


def _leaves(spec: Mapping[str, Any] | None, under: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rules that a sequence of rules comes down to."""
    if spec is None:
        return
    if spec.get("type") == "Sequence":
        for part in spec[under]:
            yield from _leaves(part, under)
    else:
        yield spec


def _is_plain(rule: Mapping[str, Any]) -> bool:
    kind = rule.get("type")
    if kind == "ByteLevel":
        return not rule.get("add_prefix_space", True)
    if kind == "Split":
        pattern = (rule.get("pattern") or {}).get("Regex")
        isolated = rule.get("behavior") == "Isolated" and not rule.get("invert")
        return isolated and isinstance(pattern, str) and "(?<" not in pattern
    return kind == "Digits"
