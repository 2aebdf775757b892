"""Gives prefixes to a trace that has only lengths: a stated model, not a measurement. Pure.

Public traces such as Azure's say how long prompts were, not what they shared. The model keeps
every arrival and every length, and decides which requests continue which: a request may be the
next turn of a conversation that it is long enough to hold, and every conversation begins with one
of a few system prompts.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from headrace.simulator.trace import TraceRequest

BLOCK_TOKENS: Final = 16

_ID_BITS: Final = 16  # ids per conversation: 2**16 blocks, a million tokens
_DRAWS: Final = 8  # idle conversations looked at for one that fits
_OPEN_LIMIT: Final = 4096  # idle conversations kept; the longest idle are over


@dataclass(frozen=True, slots=True)
class PrefixModel:
    """What is presumed of a trace without hashes.

    Attributes:
        continue_ratio: Chance that a request continues a conversation if one fits, so turns are
            geometric with mean ``1 / (1 - continue_ratio)``.
        think_s: Mean pause (exponential) between the likely end of an answer and the next turn.
        seconds_per_output_token: The likely end of an answer; a reader's engine.
        preambles: How many system prompts there are; popular ones are drawn more often.
        preamble_tokens: Length of each; a shorter prompt is all system prompt.

    """

    continue_ratio: float
    think_s: float
    seconds_per_output_token: float = 0.03
    preambles: int = 4
    preamble_tokens: int = 256


@dataclass(slots=True)
class _Conversation:
    number: int
    preamble: int
    held_tokens: int  # prompt and answer of its latest turn


def with_sessions(
    requests: Sequence[TraceRequest], model: PrefixModel, seed: int
) -> list[TraceRequest]:
    """Return the same requests with prefixes and sessions drawn from ``model``.

    Args:
        requests: By arrival; whatever prefixes they have are replaced.
        model: What to presume.
        seed: Same seed, same prefixes.

    """
    rng = random.Random(f"sessions/{seed}")
    idle: deque[_Conversation] = deque(maxlen=_OPEN_LIMIT)
    busy: list[tuple[float, int, _Conversation]] = []  # by when the next turn may come
    made: list[TraceRequest] = []
    for number, request in enumerate(requests):
        while busy and busy[0][0] <= request.arrival_s:
            idle.append(heapq.heappop(busy)[2])
        talk = _continued(request, idle, rng) if rng.random() < model.continue_ratio else None
        if talk is None:
            preamble = min(int(rng.paretovariate(1.0)), model.preambles) - 1
            talk = _Conversation(number, preamble, 0)
        made.append(_request(request, talk, model))

        talk.held_tokens = request.prompt_tokens + request.output_tokens
        pause_s = rng.expovariate(1.0 / model.think_s)
        pause_s += request.output_tokens * model.seconds_per_output_token
        heapq.heappush(busy, (request.arrival_s + pause_s, number, talk))
    return made


def continued_ratio(requests: Sequence[TraceRequest]) -> float:
    """Return the share of requests whose session had a request before."""
    sessions = {request.session for request in requests}
    return 1.0 - len(sessions) / len(requests) if requests else 0.0


def _continued(
    request: TraceRequest, idle: deque[_Conversation], rng: random.Random
) -> _Conversation | None:
    """Take out the longest of a few idle conversations that the prompt can hold."""
    best = -1
    for index in {rng.randrange(len(idle)) for _ in range(_DRAWS)} if idle else ():
        held = idle[index].held_tokens
        if held < request.prompt_tokens and (best < 0 or held > idle[best].held_tokens):
            best = index
    if best < 0:
        return None
    found = idle[best]
    del idle[best]
    return found


def _request(request: TraceRequest, talk: _Conversation, model: PrefixModel) -> TraceRequest:
    total = -(-(request.prompt_tokens + request.output_tokens) // BLOCK_TOKENS)
    shared = min(total, model.preamble_tokens // BLOCK_TOKENS)
    common = talk.preamble << _ID_BITS
    own = (model.preambles + talk.number) << _ID_BITS
    ids = (*range(common, common + shared), *range(own + shared, own + total))
    prompt_runs = -(-request.prompt_tokens // BLOCK_TOKENS)
    return replace(
        request,
        hash_ids=ids[:prompt_runs],
        hash_block_tokens=BLOCK_TOKENS,
        output_hash_ids=ids[prompt_runs:],
        session=f"talk-{talk.number}",
    )
