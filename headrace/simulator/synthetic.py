"""Named, seeded workloads for when no trace is at hand. Pure.

Each makes requests whose shared prefixes are real: block ids follow the conversation's tokens, so
a later turn, which sends the earlier ones back, hits what they left in a cache.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from headrace.core.errors import ConfigError
from headrace.simulator.trace import TraceRequest

BLOCK_TOKENS: Final = 16

_ID_BITS: Final = 16  # ids per token stream: 2**16 blocks of 16 tokens, a million tokens


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of one workload; tokens are medians of log-normal draws.

    Attributes:
        preambles: How many shared system prompts there are; popular ones are drawn more often.
        preamble_tokens: Length of a system prompt.
        turns: Mean turns of a session, at least 1.
        first_tokens: What the first turn adds to the system prompt.
        turn_tokens: What each later turn adds to the conversation.
        output_tokens: Length of an answer.
        spread: Sigma of the log-normal draws.
        think_s: Mean pause between an answer's likely end and the next turn.
        burst_ratio: Rate inside bursts over the mean rate; 1 for a plain Poisson process.
        burst_s: Mean length of a burst.

    """

    preambles: int
    preamble_tokens: int
    turns: float
    first_tokens: int
    turn_tokens: int
    output_tokens: int
    spread: float
    think_s: float
    burst_ratio: float = 1.0
    burst_s: float = 10.0


WORKLOADS: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        # Chat: a few applications, several turns, the whole conversation sent each time.
        "conversation": Shape(8, 1024, 4.0, 300, 120, 250, 0.7, 20.0),
        # Tool loops: long shared instructions, many quick turns, ~90 % of a prompt seen before.
        "agents": Shape(4, 4096, 16.0, 1200, 450, 120, 0.6, 3.0),
        # Completion in an editor: long unshared prompts, short answers, in bursts.
        "code": Shape(64, 1024, 1.5, 3000, 400, 24, 0.8, 5.0, burst_ratio=6.0, burst_s=6.0),
        # Short chat that comes in waves.
        "bursts": Shape(8, 512, 1.0, 400, 1, 200, 0.6, 1.0, burst_ratio=8.0, burst_s=6.0),
    }
)

_MAX_PROMPT_TOKENS: Final = 32_768
_MAX_OUTPUT_TOKENS: Final = 2_048
_SECONDS_PER_OUTPUT_TOKEN: Final = 0.03  # a reader's engine; only spaces the turns


def synthesize(name: str, seed: int, rate_rps: float, duration_s: float) -> list[TraceRequest]:
    """Return ``duration_s`` seconds of a named workload, by arrival.

    Args:
        name: One of ``WORKLOADS``.
        seed: Same seed, same requests.
        rate_rps: Mean requests per second, counting every turn.
        duration_s: Sessions begin in this span; turns past its end are cut.

    Raises:
        ConfigError: no such workload, or a rate or duration that is not positive.

    """
    if name not in WORKLOADS:
        raise ConfigError(f"unknown workload {name!r}; known: {', '.join(sorted(WORKLOADS))}")
    if not (rate_rps > 0.0 and duration_s > 0.0):
        raise ConfigError("a workload needs a positive rate_rps and duration_s")
    shape = WORKLOADS[name]
    rng = random.Random(f"{name}/{seed}")
    requests: list[TraceRequest] = []
    for number, start_s in enumerate(_starts(shape, rng, rate_rps / shape.turns, duration_s)):
        for request in _session(shape, rng, f"{name}-{number}", number, start_s):
            if request.arrival_s >= duration_s:
                break
            requests.append(request)
    requests.sort(key=lambda request: request.arrival_s)
    return requests


def _starts(
    shape: Shape, rng: random.Random, rate_rps: float, duration_s: float
) -> Iterator[float]:
    """Session starts: Poisson, or a two-state process with the same mean rate.

    Bursts take ``1 / (2 burst_ratio)`` of the time, so that half the load is inside them and the
    other half is spread evenly over the rest.
    """
    now_s = 0.0
    in_burst = False
    until_s = _gap(shape, rng, in_burst)
    quiet_rate = rate_rps / 2 / (1.0 - 0.5 / shape.burst_ratio)
    while True:
        if shape.burst_ratio == 1.0:
            rate = rate_rps
        else:
            rate = rate_rps * shape.burst_ratio if in_burst else quiet_rate
        step_s = rng.expovariate(rate)
        if shape.burst_ratio != 1.0 and now_s + step_s > until_s:
            now_s = until_s  # the process has no memory: draw again at the new rate
            in_burst = not in_burst
            until_s += _gap(shape, rng, in_burst)
        else:
            now_s += step_s
            if now_s < duration_s:
                yield now_s
        if now_s >= duration_s:
            return


def _gap(shape: Shape, rng: random.Random, in_burst: bool) -> float:
    """Length of a burst, or of the quiet between two.

    Within half of its mean, so that a short workload has about the rate that was asked for.
    """
    mean_s = shape.burst_s if in_burst else shape.burst_s * (2 * shape.burst_ratio - 1)
    return mean_s * rng.uniform(0.5, 1.5)


def _session(
    shape: Shape, rng: random.Random, session: str, number: int, start_s: float
) -> Iterator[TraceRequest]:
    """The turns of one session; each prompt is all that was said before plus the new turn."""
    preamble = min(int(rng.paretovariate(1.0)), shape.preambles) - 1
    turns = 1 + _geometric(rng, shape.turns - 1.0)
    arrival_s = start_s
    context = shape.preamble_tokens + _draw(rng, shape.first_tokens, shape.spread)
    for _ in range(turns):
        if context > _MAX_PROMPT_TOKENS:
            return
        output = min(_draw(rng, shape.output_tokens, shape.spread), _MAX_OUTPUT_TOKENS)
        ids = _stream_ids(shape, preamble, number, context + output)
        prompt_runs = -(-context // BLOCK_TOKENS)
        yield TraceRequest(
            arrival_s,
            context,
            output,
            ids[:prompt_runs],
            BLOCK_TOKENS,
            ids[prompt_runs:],
            session,
        )
        context += output + _draw(rng, shape.turn_tokens, shape.spread)
        think_s = rng.expovariate(1.0 / shape.think_s)
        arrival_s += output * _SECONDS_PER_OUTPUT_TOKEN + think_s


def _stream_ids(shape: Shape, preamble: int, number: int, tokens: int) -> tuple[int, ...]:
    """Ids of a session's token stream: the system prompt's whole blocks, then its own."""
    shared = shape.preamble_tokens // BLOCK_TOKENS
    total = -(-tokens // BLOCK_TOKENS)
    common = preamble << _ID_BITS
    own = (shape.preambles + number) << _ID_BITS
    return (*range(common, common + shared), *range(own + shared, own + total))


def _draw(rng: random.Random, median: int, spread: float) -> int:
    return max(1, round(median * math.exp(rng.gauss(0.0, spread))))


def _geometric(rng: random.Random, mean: float) -> int:
    """A whole number >= 0 with that mean, each further turn as likely as the last."""
    if mean <= 0.0:
        return 0
    more = mean / (1.0 + mean)
    return int(math.log(1.0 - rng.random()) / math.log(more))
