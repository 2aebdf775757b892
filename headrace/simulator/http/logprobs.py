"""Log probabilities that look like a model's: the same for the same token and place. Pure."""

from __future__ import annotations

from typing import Any, Final

from xxhash import xxh3_64_intdigest

_ALTERNATIVES: Final = (" the", " and", " ing", " ion", " for", " was", " are", " not")


def logprob(token: bytes, position: int, rank: int = 0) -> float:
    """Return a log probability: near 0 for the token chosen (rank 0), less for each rank."""
    draw = xxh3_64_intdigest(token, seed=position) % 1000 / 1000
    return -0.001 - 0.7 * draw - 1.3 * rank


def ranked(token: bytes, position: int, count: int) -> list[tuple[str, float]]:
    """Return the ``count`` likeliest tokens at a place, the chosen one first."""
    names = [token.decode("utf-8", "replace")]
    number = 0
    while len(names) < count:
        word = _ALTERNATIVES[(position + number) % len(_ALTERNATIVES)]
        name = word if number < len(_ALTERNATIVES) else f"{word[:2]}{number:02d}"
        if name not in names:
            names.append(name)
        number += 1
    return [(name, logprob(token, position, rank)) for rank, name in enumerate(names[:count])]


def chat_entry(token: bytes, position: int, top: int) -> dict[str, Any]:
    """Return one token's entry in a chat choice's ``logprobs.content``."""

    def described(name: str, value: float) -> dict[str, Any]:
        return {"token": name, "logprob": value, "bytes": list(name.encode())}

    chosen = described(token.decode("utf-8", "replace"), logprob(token, position))
    alternatives = [described(name, value) for name, value in ranked(token, position, top)]
    return {**chosen, "top_logprobs": alternatives}


def completion_logprobs(tokens: list[bytes], first: int, top: int, offset: int) -> dict[str, Any]:
    """Return a completion choice's ``logprobs`` for tokens ``first`` and on.

    ``offset`` is where the first token's text begins, in characters.
    """
    names = [token.decode("utf-8", "replace") for token in tokens]
    places = range(first, first + len(tokens))
    offsets: list[int] = []
    for name in names:
        offsets.append(offset)
        offset += len(name)
    return {
        "text_offset": offsets,
        "token_logprobs": [
            logprob(token, place) for token, place in zip(tokens, places, strict=True)
        ],
        "tokens": names,
        "top_logprobs": [
            dict(ranked(token, place, max(top, 1)))
            for token, place in zip(tokens, places, strict=True)
        ],
    }
