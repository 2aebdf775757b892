"""Turns an engine core's block events into vLLM's, and hands them to the publisher.

Touches the wall clock for the time stamp and, through the publisher, sockets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, Final, cast

from headrace.core.ids import RequestId
from headrace.simulator.http.adapters import Adapters
from headrace.simulator.http.faults import Faults
from headrace.simulator.http.generation import Generation
from headrace.simulator.requests import BlockEvent, BlocksCleared, BlocksRemoved, BlocksStored
from kvcache.events import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch, KvEvent
from kvcache.hashing import external
from kvcache.shell.publisher import EventPublisher

MEDIUM: Final = "GPU"


def unix_s() -> float:
    """Return seconds since 1970, which events and replies carry."""
    return time.time()  # noqa: TID251 -- the wire wants Unix time; nothing is decided by it


class EventFeed:
    """Collects the events of one step and publishes them as one batch."""

    def __init__(
        self,
        publisher: EventPublisher,
        adapters: Adapters,
        block_size: int,
        unix_s: Callable[[], float] = unix_s,
    ) -> None:
        self._publisher = publisher
        self._adapters = adapters
        self._block_size = block_size
        self._unix_s = unix_s
        self._batch: list[KvEvent] = []

    def collect(self, events: Iterable[BlockEvent], live: Mapping[RequestId, Generation]) -> None:
        """Take in events of the core; ``live`` holds the sequences whose tokens they stand for."""
        for event in events:
            match event:
                case BlocksStored():
                    generation = live.get(event.request_id)
                    if generation is not None:
                        self._batch.append(self._stored(event, generation))
                case BlocksRemoved():
                    self._batch += [
                        BlockRemoved([external(cast(bytes, key))], MEDIUM, group_idx=0)
                        for key in event.keys
                    ]
                case BlocksCleared():
                    self._batch.append(AllBlocksCleared())

    def publish(self, faults: Faults, rng: Random) -> None:
        """Send what was collected, or lose or delay it where a fault says so."""
        if not self._batch:
            return
        batch, self._batch = EventBatch(self._unix_s(), self._batch, 0), []
        drop, hold = faults.drop_events_rate, faults.reorder_events_rate
        self._publisher.publish(
            batch,
            drop=bool(drop) and rng.random() < drop,
            hold=bool(hold) and rng.random() < hold,
        )

    def _stored(self, event: BlocksStored, generation: Generation) -> BlockStored:
        scope, size = generation.prompt.scope, self._block_size
        count, first = len(event.keys), event.first_block
        adapter = self._adapters.get(scope.lora_name) if scope.lora_name is not None else None
        extra: list[tuple[Any, ...] | None] = []
        for index in range(first, first + count):
            # Untagged and without the adapter's path, unlike what is hashed.
            names = [key[1] for key in scope.keys(index) or ()]
            extra.append(tuple(names) or None)
        return BlockStored(
            block_hashes=[external(cast(bytes, key)) for key in event.keys],
            parent_block_hash=None if event.parent is None else external(cast(bytes, event.parent)),
            token_ids=generation.token_ids(first * size, (first + count) * size).tolist(),
            block_size=size,
            lora_id=None if adapter is None else adapter.number,
            medium=MEDIUM,
            lora_name=scope.lora_name,
            extra_keys=extra,
            group_idx=0,
            kv_cache_spec_kind="full_attention",
        )
