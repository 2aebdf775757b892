"""Requests of a trace as an engine sees them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from headrace.core.errors import ConfigError
from headrace.core.ids import RequestId
from headrace.simulator.requests import BlockKey, EngineRequest
from headrace.simulator.trace import TraceRequest

_PRIVATE_BITS: Final = 24  # blocks of one request that nobody else has: 2**24 of them are enough


def block_keys(request: TraceRequest, number: int, block_size: int) -> list[BlockKey]:
    """Return the keys of the prompt's full blocks of ``block_size`` tokens.

    A run of ``hash_block_tokens`` tokens is so many blocks; their keys are the run's id times
    that number, plus 0, 1, 2, ... A block of several runs has the id of the last, which stands
    for all before it too. Blocks without an id are private to request ``number``.

    Raises:
        ConfigError: neither length is a multiple of the other.

    """
    full = request.prompt_tokens // block_size
    keys: list[BlockKey] = []
    per_run, rest = divmod(request.hash_block_tokens, block_size)
    if per_run and not rest:  # the usual case, and prompts are long: no call per block
        keys = [run * per_run + offset for run in request.hash_ids for offset in range(per_run)]
        del keys[full:]
    key = _keys(request, request.hash_ids, number, block_size)
    keys.extend(key(index) for index in range(len(keys), full))
    return keys


def output_keys(request: TraceRequest, number: int, block_size: int) -> Callable[[int], BlockKey]:
    """Return the key of block ``i`` of prompt and answer together, for blocks decode fills."""
    ids = request.hash_ids + request.output_hash_ids if request.output_hash_ids else ()
    return _keys(request, ids, number, block_size)


def _keys(
    request: TraceRequest, ids: Sequence[int], number: int, block_size: int
) -> Callable[[int], BlockKey]:
    run_tokens = request.hash_block_tokens
    if run_tokens % block_size == 0:
        per_run, runs = run_tokens // block_size, 1
    elif block_size % run_tokens == 0:
        per_run, runs = 1, block_size // run_tokens
    else:
        raise ConfigError(
            f"hash_block_tokens {run_tokens} and blocks of {block_size} tokens: neither is a "
            "multiple of the other"
        )

    def key(index: int) -> BlockKey:
        run, offset = divmod(index, per_run)
        last = (run + 1) * runs - 1
        return ids[last] * per_run + offset if last < len(ids) else _private(number, index)

    return key


def engine_request(
    request: TraceRequest, request_id: RequestId, number: int, block_size: int
) -> EngineRequest:
    """Return the request as a simulated engine takes it; ``number`` is unique in the run.

    Raises:
        ConfigError: as ``block_keys``.

    """
    return EngineRequest(
        request_id,
        request.prompt_tokens,
        request.output_tokens,
        block_keys(request, number, block_size),
        output_keys(request, number, block_size),
        priority=-request.priority,
        adapter=request.adapter,
    )


def _private(number: int, index: int) -> int:
    """A key with the highest of 64 bits set, so that it never meets one made from a hash id."""
    return (1 << 63) + (number << _PRIVATE_BITS) + index
