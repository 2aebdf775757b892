"""Requests for many adapters of Zipf demand. Pure."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass
from random import Random
from typing import Final

from headrace.simulator.trace import TraceRequest

BLOCK_TOKENS: Final = 16

PROMPT_TOKENS: Final = 300
OUTPUT_TOKENS: Final = 150
SPREAD: Final = 0.6
"""Medians and sigma of log-normal draws: short chat, as fine-tunes for one task serve it."""

SHARED_TOKENS: Final = 128
"""An adapter's instructions, which all of its prompts begin with."""

_ID_BITS: Final = 24


@dataclass(frozen=True, slots=True)
class Demand:
    """How often which adapter is asked for.

    Attributes:
        adapters: How many there are.
        exponent: Of Zipf's law: the k-th most popular is asked for in proportion to k ** -exponent.
        rate_rps: Requests per second, Poisson.
        duration_s: For so long.

    """

    adapters: int
    exponent: float
    rate_rps: float
    duration_s: float


def adapter_names(count: int) -> list[str]:
    """Return the adapters' names, the most popular first."""
    return [f"adapter-{number:04d}" for number in range(count)]


def requests(demand: Demand, seed: int) -> list[TraceRequest]:
    """Return the requests in order of arrival; same seed, same requests."""
    rng = Random(f"lora/{seed}")
    weights = (rank**-demand.exponent for rank in range(1, demand.adapters + 1))
    upto = list(itertools.accumulate(weights))
    names = adapter_names(demand.adapters)
    made: list[TraceRequest] = []
    at_s = rng.expovariate(demand.rate_rps)
    while at_s < demand.duration_s:
        number = bisect_left(upto, rng.random() * upto[-1])
        prompt_tokens = SHARED_TOKENS + _draw(rng, PROMPT_TOKENS)
        made.append(
            TraceRequest(
                arrival_s=at_s,
                prompt_tokens=prompt_tokens,
                output_tokens=_draw(rng, OUTPUT_TOKENS),
                hash_ids=_ids(number, len(made), prompt_tokens),
                hash_block_tokens=BLOCK_TOKENS,
                adapter=names[number],
            )
        )
        at_s += rng.expovariate(demand.rate_rps)
    return made


def _ids(adapter: int, request: int, prompt_tokens: int) -> tuple[int, ...]:
    """Blocks of the adapter's instructions, then the request's own."""
    shared = SHARED_TOKENS // BLOCK_TOKENS
    own = (1 << 40) + (request << _ID_BITS)
    common = adapter << _ID_BITS
    return (
        *range(common, common + shared),
        *range(own, own + prompt_tokens // BLOCK_TOKENS - shared),
    )


def _draw(rng: Random, median: int) -> int:
    return max(1, min(4_096, round(median * math.exp(rng.gauss(0.0, SPREAD)))))
