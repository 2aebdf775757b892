"""What goes into a simulated engine and what comes out of a step. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.core.ids import RequestId

BlockKey = int | bytes
"""Identity of one full block's content, chained on all before it: equal keys, equal prefixes."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request as an engine sees it.

    Attributes:
        request_id: Unique among requests the engine holds.
        prompt_tokens: At least 1.
        output_tokens: Tokens it will generate, at least 1; the scheduler never looks ahead at it.
        block_keys: Keys of the prompt's full blocks, first block first; may be shorter than the
            prompt (what is missing is never shared).
        output_keys: Key of the request's block ``i`` (counted from the prompt's first block)
            when decode has filled it; None when such blocks are never shared.
        priority: Under priority scheduling, lower is served first (vLLM's sense).
        adapter: LoRA adapter it needs, or None.
        kv_transfer_tokens: Leading prompt tokens whose KV another engine has computed.

    """

    request_id: RequestId
    prompt_tokens: int
    output_tokens: int
    block_keys: Sequence[BlockKey] = ()
    output_keys: Callable[[int], BlockKey] | None = None
    priority: int = 0
    adapter: str | None = None
    kv_transfer_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that ended in this step.

    ``cached_tokens`` are the prompt tokens found in the prefix cache when it was first admitted.
    """

    request_id: RequestId
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step (or one stretch of decode steps) produced.

    Attributes:
        emitted: Requests that got a token in this step, in batch order; in a stretch of ``steps``
            steps each of them got that many.
        first: Those whose first token it was.
        finished: Those that ended.
        steps: Steps taken; more than 1 only when the caller asked for a stretch.

    """

    emitted: Sequence[RequestId]
    first: Sequence[RequestId]
    finished: Sequence[Finished]
    steps: int = 1


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Full blocks of one request entered the prefix cache, in prefix order.

    ``first_block`` is the request's block index of ``keys[0]``; ``parent`` is the key before it,
    None at the start of the prompt.
    """

    request_id: RequestId
    keys: tuple[BlockKey, ...]
    first_block: int
    parent: BlockKey | None
    adapter: str | None


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """Blocks left the prefix cache to make room, oldest first."""

    keys: tuple[BlockKey, ...]


@dataclass(frozen=True, slots=True)
class BlocksCleared:
    """The whole prefix cache was dropped."""


BlockEvent = BlocksStored | BlocksRemoved | BlocksCleared


@dataclass(slots=True)
class EngineCounters:
    """Running totals since the engine started; tokens unless the name says otherwise."""

    requests_added: int = 0
    requests_finished: int = 0
    requests_aborted: int = 0
    steps: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    transferred_tokens: int = 0
    computed_tokens: int = 0
    adapter_loads: int = 0
    busy_s: float = field(default=0.0)
